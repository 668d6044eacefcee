"""Normalisations: their parameters and statistics follow the channels they scale."""

from __future__ import annotations

import numpy as np

from torchpare.graph.flow import Flow, along
from torchpare.graph.program import Op, Ref
from torchpare.graph.rules.table import rule
from torchpare.graph.sizes import Const

__all__ = ["CHANNEL_NORMS", "batch_norm", "group_norm", "layer_norm"]

CHANNEL_NORMS = (
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
    "batch_norm_with_update",
    "instance_norm",
)
"""Norms whose scale and shift are their second and third argument, one for each entry of axis 1."""


@rule(*CHANNEL_NORMS)
def batch_norm(flow: Flow, op: Op) -> None:
    """One scale, shift, mean and variance a channel (axis 1): exact under removal."""
    x = op.args[0]
    why = f"the batch norm in {op.where}"
    channels = flow.vector(x, 1, why)
    for ref in op.inputs[1:]:
        if flow.shape(ref) == channels.shape:
            flow.follow(ref, {0: channels}, why)
    if not op.name.endswith(("no_training", "no_update")):  # statistics of this batch, over all other axes
        for axis, labels in enumerate(flow.labels(x)):
            if axis != 1:
                flow.note("a norm over the pruned axis", labels, op)
    flow.define(op.outputs[0], flow.labels(x))
    for uid in op.outputs[1:]:  # the batch's statistics, saved for the backward pass
        shape = flow.shape(uid)
        flow.define(uid, [along(channels, 0, 1)] if shape == channels.shape else flow.fixed(shape))


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(flow: Flow, op: Op) -> None:
    """Mean and variance over the last axes. Fewer channels give another mean: said so, if one of them goes."""
    x, normalized = op.args[0], op.args[1]
    rank = len(flow.shape(x))
    why = f"the layer norm in {op.where}"
    parameters = [ref for ref in op.args[2:4] if isinstance(ref, Ref)]
    first = rank - len(normalized)
    for axis in range(first, rank):
        labels = flow.vector(x, axis, why)
        for ref in parameters:
            flow.follow(ref, {axis - first: along(labels, axis - first, len(normalized))}, why)
        flow.note("a norm over the pruned axis", labels, op)
        if op.call is None or op.call.sizes is None or len(op.call.sizes) != len(normalized):
            flow.store.freeze(labels, f"the normalised shape is fixed in {op.where}")
        else:
            flow.require(labels, op.call.sizes[axis - first], op, "the normalised shape")
    flow.define(op.outputs[0], flow.labels(x))
    for uid in op.outputs[1:]:
        flow.define(uid, [*flow.labels(x)[:first], *flow.fixed(flow.shape(uid))[first:]])


@rule("native_group_norm")
def group_norm(flow: Flow, op: Op) -> None:
    """Mean and variance over the channels of each group: whole groups go exactly, so channels of a group are tied.

    Where the number of groups cannot change (there is one only, or it is a number in the source), every group gives up
    equally many of its channels instead, and is a norm over fewer.
    """
    x, *affine = op.args[:3]
    groups = op.args[6]
    why = f"the group norm in {op.where}"
    channels = flow.vector(x, 1, why)
    for ref in affine:
        if isinstance(ref, Ref):
            flow.follow(ref, {0: channels}, why)
    grid = np.ascontiguousarray(channels).reshape(groups, -1)
    number = None if op.call is None else op.call.number
    if groups > 1 and number is not None and not isinstance(number, Const):
        flow.store.unify(grid[:, :1], grid, why)
        flow.require(grid[:, 0], number, op, "the number of groups")
        heads = grid[:, 0]
    else:
        if number is not None:
            flow.pin(number, groups, op)
        flow.equal(grid, f"every group must keep equally many in {why}")
        flow.note("a norm over the pruned axis", channels, op)
        heads = np.zeros(groups, dtype=np.int64)
    for axis, labels in enumerate(flow.labels(x)):
        if axis > 1:
            flow.note("a norm over the pruned axis", labels, op)
    flow.define(op.outputs[0], flow.labels(x))
    for uid in op.outputs[1:]:
        axes = flow.fixed(flow.shape(uid))
        if len(axes) == 2:
            axes[1] = along(heads, 1, 2)
        flow.define(uid, axes)


@rule("_weight_norm_interface")
def weight_norm(flow: Flow, op: Op) -> None:
    """A direction times a length: the lengths lie along one axis of the directions.

    The length of a direction is taken over what it reads, and a column that reads a removed channel is masked.
    """
    direction, length = op.args[:2]
    axis = op.args[2] if len(op.args) > 2 else 0
    why = f"the weight norm in {op.where}"
    labels = flow.vector(direction, axis, why)
    flow.store.unify(labels, flow.vector(length, axis, why), why)
    flow.makes(length, axis, labels)
    flow.unmasked.add((direction.uid, axis))  # a direction of nothing but zeros has no length to divide by
    flow.define(op.outputs[0], flow.labels(direction))
    for uid in op.outputs[1:]:
        axes = flow.fixed(flow.shape(uid))
        if axes:
            axes[axis] = along(labels, axis, len(axes))
        flow.define(uid, axes)
