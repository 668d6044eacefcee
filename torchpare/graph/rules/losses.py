"""Losses and distances that are one operator: what they compare entry by entry lives and dies together."""

from __future__ import annotations

import numpy as np

from torchpare.graph.flow import Flow
from torchpare.graph.program import Op
from torchpare.graph.rules.elementwise import merge_aligned
from torchpare.graph.rules.table import rule

__all__ = ["distances", "elementwise_loss", "loss_of_classes"]

_SUM = 2  # how torch numbers what becomes of a loss: 0 for every entry, 1 for the mean, 2 for the sum


@rule(
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "soft_margin_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)
def elementwise_loss(flow: Flow, op: Op) -> None:
    """A loss of each entry, or the mean or sum of them all. A mean over pruned entries is one over fewer."""
    shape = np.broadcast_shapes(*(flow.shape(ref) for ref in op.inputs))
    merged = merge_aligned(flow, op, list(op.inputs), shape)
    if flow.shape(op.outputs[0]) == shape:
        flow.define(op.outputs[0], merged)
        return
    numbers = [argument for argument in op.args[2:] if isinstance(argument, int)]
    for labels in merged:
        flow.other_readers.append(labels)
        if (numbers[:1] or [1]) != [_SUM]:
            flow.note(f"{op.name.removeprefix('aten.')} over the pruned axis", labels, op)
    flow.define(op.outputs[0], flow.fixed(flow.shape(op.outputs[0])))


@rule("_cdist_forward", "_euclidean_dist")
def distances(flow: Flow, op: Op) -> None:
    """From every row of one matrix to every row of another: a sum over columns, like a product of the two."""
    left, right = op.args[:2]
    shape = flow.shape(op.outputs[0])
    rank, width = len(shape), len(flow.shape(left))
    why = f"the distances in {op.where}"
    if width != len(flow.shape(right)) or width != rank:
        flow.freeze_all(op, why)
        return
    columns = flow.vector(left, rank - 1, why)
    flow.store.unify(columns, flow.vector(right, rank - 1, why), why)
    flow.other_readers.append(columns)
    axes = flow.fixed(shape)
    for axis in range(rank - 2):
        own = [flow.vector(ref, axis, why) for ref in (left, right) if flow.shape(ref)[axis] == shape[axis]]
        flow.store.unify(own[0], own[-1], why)
        axes[axis] = own[0].reshape([-1 if other == axis else 1 for other in range(rank)])
    for axis, ref in ((rank - 2, left), (rank - 1, right)):
        axes[axis] = flow.vector(ref, rank - 2, why).reshape([-1 if other == axis else 1 for other in range(rank)])
    flow.define(op.outputs[0], axes)


@rule("nll_loss_forward", "nll_loss2d_forward", "_ctc_loss", "multi_margin_loss", "multilabel_margin_loss_forward")
def loss_of_classes(flow: Flow, op: Op) -> None:
    """Losses that look classes and steps up by number: everything stays."""
    flow.freeze_all(op, f"{op.name} in {op.where} looks its entries up by number")
