"""Operators that take axes away, or look at whole axes: sums, means, pooling, softmax."""

from __future__ import annotations

import numpy as np

from torchpare.graph.flow import Flow, along
from torchpare.graph.program import Op
from torchpare.graph.reduced import reduced_axes
from torchpare.graph.rules.table import rule
from torchpare.graph.zeros import ALIASES

__all__ = ["along_axis", "pooling", "reduce"]


@rule(
    *("sum", "mean", "amax", "amin", "max", "min", "var", "std", "norm", "linalg_vector_norm", "logsumexp", "prod"),
    *("var_mean", "std_mean", "nansum", "any", "all", "argmax", "argmin", "aminmax", "count_nonzero"),
    *("_is_all_true", "_is_any_true"),
)
def reduce(flow: Flow, op: Op) -> None:
    """Drop the reduced axes. Over a pruned axis only a sum stays the same function."""
    x = op.args[0]
    rank = len(flow.shape(x))
    if rank == 0 or (len(op.inputs) == 2 and op.name in ("aten.max", "aten.min")):
        flow.freeze_all(op, f"{op.name} in {op.where}")
        return
    axes, keep = reduced_axes(op, rank, flow.shape(op.outputs[0]))
    why = f"{op.name} in {op.where}"
    for axis in axes:
        labels = flow.labels(x)[axis]
        flow.other_readers.append(labels)
        if op.name in _WHOLE or any(_is_read(flow, uid) for uid in op.outputs[1:] if op.name in _OF_ONE):
            flow.store.freeze(labels, why)
        elif op.name != "aten.sum":
            flow.note(f"{op.name.removeprefix('aten.')} over the pruned axis", labels, op)
    kept = [axis for axis in range(rank) if axis not in axes]
    arrays = []
    for axis in range(rank):
        if axis in axes:
            if keep:
                arrays.append(np.zeros((1,) * rank, dtype=np.int64))
            continue
        tied = flow.tied(x, axis, why, depends=kept)
        arrays.append(tied if keep else tied.reshape([tied.shape[other] for other in kept]))
    for uid in op.outputs:
        flow.define(uid, arrays if len(flow.shape(uid)) == len(arrays) else flow.fixed(flow.shape(uid)))


_WHOLE = frozenset(f"aten.{name}" for name in ("prod", "argmax", "argmin"))
"""Reductions whose result tells of single entries: the axes they take stay whole."""
_OF_ONE = frozenset({"aten.max", "aten.min"})
"""The same, where they tell the number of the entry too and somebody listens."""


def _is_read(flow: Flow, uid: int) -> bool:
    """Whether an operator, or who calls the model, takes a value in."""
    readers = [other for other in flow.program.ops if any(ref.uid == uid for ref in other.inputs)]
    return uid in flow.program.outputs or any(
        other.name not in ALIASES or any(_is_read(flow, shown) for shown in other.outputs) for other in readers
    )


@rule(
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "max_pool2d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_bilinear2d",
    "upsample_linear1d",
    "upsample_bicubic2d",
    "upsample_trilinear3d",
    "_upsample_nearest_exact2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "_upsample_lanczos2d_aa",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact3d",
    "adaptive_max_pool1d",
    "grid_sampler_2d",
    "grid_sampler_3d",
    "reflection_pad3d",
    "replication_pad3d",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
)
def pooling(flow: Flow, op: Op) -> None:
    """Windows over the spatial axes: batch and channels are carried, spatial axes stay whole.

    Where windows lie side by side (a maximum over pairs of channels), each goes with all that it takes in.
    """
    x = op.args[0]
    rank = len(flow.shape(x))
    spatial = next(int(digit) for digit in "123" if f"{digit}d" in op.name)
    why = f"spatial axis of {op.name} in {op.where}"
    first = rank - spatial
    numbered = any(_is_read(flow, uid) for uid in op.outputs[1:])
    pooled = flow.fixed(flow.shape(op.outputs[0]))[first:]
    for ref in op.inputs:  # a grid of places, or indices to unpool with, is as fixed as the spatial axes
        for axis in range(first if ref.uid == x.uid else 0, len(flow.shape(ref))):
            width = 0 if ref.uid != x.uid or numbered else _window(op, axis - first, flow.shape(x)[axis])
            if width:
                windows = flow.vector(x, axis, why).reshape(-1, width)
                flow.store.unify(windows[:, :1], windows, f"a window of {op.name} in {op.where}")
                pooled[axis - first] = along(windows[:, 0], axis, rank)
            else:
                flow.freeze(ref, axis, why)
    carried = [flow.tied(x, axis, why, depends=range(first)) for axis in range(first)]
    for uid in op.outputs:
        flow.define(uid, [*carried, *pooled])


def _window(op: Op, place: int, size: int) -> int:
    """How many entries of an axis a window takes, where windows cover it side by side; 0 otherwise."""
    if not op.name.startswith(("aten.max_pool", "aten.avg_pool")):
        return 0
    given = op.args[1 : 5 if op.name.startswith("aten.max") else 4]
    kernel, stride, padding, dilation = (*given, *((), (0,), (1,))[len(given) - 1 :])
    width, step, border, gap = (
        numbers[min(place, len(numbers) - 1)] for numbers in (kernel, stride or kernel, padding, dilation)
    )
    return width if step == width and border == 0 and gap == 1 and size % width == 0 else 0


@rule("max_unpool2d", "max_unpool3d")
def unpooling(flow: Flow, op: Op) -> None:
    """The inverse of pooling: each value goes to a place in its own plane, which lies beside it in a second tensor."""
    x, places = op.args[:2]
    rank, why = len(flow.shape(x)), f"spatial axis of {op.name} in {op.where}"
    first = rank - int(op.name[-2])
    arrays = flow.fixed(flow.shape(op.outputs[0]))
    for axis in range(rank):
        if axis >= first:
            flow.freeze(x, axis, why)
            flow.freeze(places, axis, why)
            continue
        arrays[axis] = flow.tied(x, axis, why, depends=range(first))
        flow.store.unify(arrays[axis], flow.tied(places, axis, why, depends=range(first)), why)
    flow.define(op.outputs[0], arrays)


@rule("rot90")
def turn(flow: Flow, op: Op) -> None:
    """A quarter turn of two axes, which stay whole."""
    x = op.args[0]
    rank = len(flow.shape(x))
    given = op.args[2] if len(op.args) > 2 else op.kwargs.get("dims", (0, 1))
    turned = {axis % rank for axis in given}
    why = f"the turn in {op.where}"
    arrays = flow.fixed(flow.shape(op.outputs[0]))
    for axis in range(rank):
        if axis in turned:
            flow.freeze(x, axis, why)
        else:
            arrays[axis] = flow.tied(x, axis, why, depends=[other for other in range(rank) if other not in turned])
    flow.define(op.outputs[0], arrays)


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "cumsum", "roll", "renorm")
def along_axis(flow: Flow, op: Op) -> None:
    """Operators that mix or move the entries of an axis: that axis stays whole, the others are carried."""
    x = op.args[0]
    rank = len(flow.shape(x))
    given = op.args[-1] if op.name == "aten.roll" and len(op.args) > 2 else op.args[1]
    everywhere = op.name == "aten.roll" and len(op.args) == 2  # a roll without axes runs over the flattened tensor
    axes = range(rank) if everywhere else [given] if isinstance(given, int) else given
    for axis in axes:
        flow.freeze(x, axis % rank, f"{op.name} in {op.where} runs along it")
    flow.define(op.outputs[0], flow.labels(x))
