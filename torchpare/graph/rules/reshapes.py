"""Views and reshapes: axes are merged and split, group of axes by group of axes."""

from __future__ import annotations

import numpy as np

from torchpare.graph.flow import Flow, along
from torchpare.graph.labels import LabelArray
from torchpare.graph.program import Op
from torchpare.graph.rules.copies import requested_sizes
from torchpare.graph.rules.table import rule
from torchpare.graph.sizes import Const

__all__ = ["factor_groups"]

Group = tuple[list[int], list[int]]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten")
def reshape(flow: Flow, op: Op) -> None:
    """Split the shapes into the smallest groups of axes with equal products; merge and split inside each."""
    x, result = op.args[0], op.outputs[0]
    old, new = flow.shape(x), flow.shape(result)
    if 0 in old or (op.args[1:] and not isinstance(op.args[1], (list, tuple))):
        flow.freeze_all(op, f"{op.name} in {op.where}")
        return
    exprs = requested_sizes(op, result, len(new))
    if x.uid in flow.origin:  # a parameter seen otherwise: axes that go over one to one are still its own
        parameter, own = flow.origin[x.uid]
        kept = {b[0]: own[a[0]] for a, b in factor_groups(old, new) if len(a) == len(b) == 1}
        flow.origin[result] = (parameter, tuple(kept.get(axis) for axis in range(len(new))))
    arrays = flow.fixed(new)
    why = f"the reshape in {op.where}"
    groups = factor_groups(old, new)
    for axes_in, axes_out in groups:
        merged = _merge(flow, x.uid, axes_in, groups, old, new, why)
        if not merged.any():
            continue
        long = [axis for axis in axes_out if new[axis] > 1]
        if len(long) == 1:
            arrays[long[0]] = merged
        else:
            vector = _vector(flow, merged, axes_out, why)
            literal = [isinstance(exprs[axis], Const) for axis in long]
            parts = flow.split(vector, [new[axis] for axis in long], literal, why)
            for axis, part in zip(long, parts, strict=True):
                shape = [1] * len(new)
                for place, size in zip(long, part.shape, strict=True):
                    shape[place] = size
                arrays[axis] = part.reshape(shape)
    flow.define(result, arrays)
    for axis, expr in enumerate(exprs):
        if expr is not None:
            flow.require_axis(arrays[axis], axis, expr, op, new[axis])


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(flow: Flow, op: Op) -> None:
    """Channels become pixels, ``factor`` squared of them each, or the other way round."""
    x, factor = op.args[:2]
    rank = len(flow.shape(x))
    axis, why = rank - 3, f"{op.name} in {op.where}"
    for spatial in range(rank - 2, rank):
        flow.freeze(x, spatial, why)
    vector = flow.vector(x, axis, why)
    if op.name == "aten.pixel_shuffle":
        channels = _pieces(flow, vector, factor**2, why)
    else:
        channels = np.repeat(vector, factor**2)
    arrays = flow.fixed(flow.shape(op.outputs[0]))
    for other in range(axis):
        arrays[other] = flow.tied(x, other, why, depends=range(axis))
    arrays[axis] = along(channels, axis, rank)
    flow.define(op.outputs[0], arrays)


@rule("channel_shuffle")
def channel_shuffle(flow: Flow, op: Op) -> None:
    """The channels of groups dealt out in turn: the first of each, the second of each. So each group loses the same."""
    x, groups = op.args[:2]
    rank, why = len(flow.shape(x)), f"{op.name} in {op.where}"
    rows = np.ascontiguousarray(flow.vector(x, 1, why)).reshape(groups, -1)
    flow.store.unify(rows[:1], rows, why)
    if op.call is not None and op.call.number is not None:
        flow.pin(op.call.number, groups, op)
    others = [axis for axis in range(rank) if axis != 1]
    arrays = [flow.tied(x, axis, why, depends=others) for axis in range(rank)]
    arrays[1] = along(rows.T.reshape(-1), 1, rank)
    flow.define(op.outputs[0], arrays)


@rule("im2col", "col2im")
def columns(flow: Flow, op: Op) -> None:
    """Windows laid out as columns of ``channels * kernel`` entries (``F.unfold``), and back (``F.fold``)."""
    x, result = op.args[0], op.outputs[0]
    rank, why = len(flow.shape(x)), f"{op.name} in {op.where}"
    inverse = op.name == "aten.col2im"
    axis = rank - 2 if inverse else rank - 3
    kernel = int(np.prod(op.args[2] if inverse else op.args[1]))
    for spatial in range(axis + 1, rank):
        flow.freeze(x, spatial, why)
    vector = flow.vector(x, axis, why)
    channels = _pieces(flow, vector, kernel, why) if inverse else np.repeat(vector, kernel)
    arrays = flow.fixed(flow.shape(result))
    arrays[axis] = along(channels, axis, len(arrays))
    flow.define(result, arrays)


def _pieces(flow: Flow, vector: LabelArray, length: int, why: str) -> LabelArray:
    """One label for every ``length`` neighbours, which live and die together."""
    rows = vector.reshape(-1, length)
    flow.store.unify(rows[:, :1], rows, why)
    return np.ascontiguousarray(rows[:, 0])


def factor_groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[Group]:
    """Runs of axes with equal products, as short as they come: (2, 6, 4) -> (2, 24) is [0]-[0] and [1, 2]-[1]."""
    groups: list[Group] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = [], []
        left = right = 1
        if i < len(old):
            a, left, i = [i], old[i], i + 1
        if j < len(new):
            b, right, j = [j], new[j], j + 1
        while left != right:
            if left < right and i < len(old):
                a.append(i)
                left, i = left * old[i], i + 1
            else:
                b.append(j)
                right, j = right * new[j], j + 1
        groups.append((a, b))
    return groups


def _merge(
    flow: Flow, uid: int, axes_in: list[int], groups: list[Group], old: tuple[int, ...], new: tuple[int, ...], why: str
) -> LabelArray:
    """The labels of a group of axes as one array over the new axes: removed where any of its axes is.

    An axis may depend on the axes before it, but not on one after it: the elements that stay would come out in another
    order than they had (a channel shuffle interleaves its groups), so such an axis is tied over the later ones.
    """
    merged = np.zeros((1,) * len(new), dtype=np.int64)
    if len(axes_in) > 1:
        flow.nest([flow.labels(uid)[axis] for axis in axes_in])
    for axis in axes_in:
        array = flow.labels(uid)[axis]
        for later in axes_in:
            if later > axis and array.shape[later] > 1:
                first = np.take(array, [0], axis=later)
                flow.store.unify(first, array, why)
                array = first
        if array.any():
            merged = flow.store.either(merged, _move(array, groups, old, new))
    return merged


def _move(array: LabelArray, groups: list[Group], old: tuple[int, ...], new: tuple[int, ...]) -> LabelArray:
    """The reshape done to a label array: full on the groups along which it varies, size 1 on the others."""
    full = list(array.shape)
    shape: list[int] = [1] * len(new)
    for axes_in, axes_out in groups:
        if any(array.shape[axis] > 1 for axis in axes_in):
            for axis in axes_in:
                full[axis] = old[axis]
            for axis in axes_out:
                shape[axis] = new[axis]
    return np.broadcast_to(array, full).reshape(shape)


def _vector(flow: Flow, merged: LabelArray, axes_out: list[int], why: str) -> LabelArray:
    """A merged group as a vector; dependence on axes outside the group is tied away."""
    for axis in range(merged.ndim):
        if axis not in axes_out and merged.shape[axis] > 1:
            first = np.take(merged, [0], axis=axis)
            flow.store.unify(first, merged, why)
            merged = first
    return np.ascontiguousarray(merged).reshape(-1)
