"""Operators that only move elements: the same is done to the label arrays."""

from __future__ import annotations

import itertools

import numpy as np

from torchpare.graph.flow import Flow
from torchpare.graph.labels import LabelArray
from torchpare.graph.program import Op, Ref
from torchpare.graph.provenance import EVEN_SPLITS, RECURRENT
from torchpare.graph.rules.table import rule
from torchpare.graph.sizes import Const, Dim, negative

__all__: list[str] = []


@rule("permute", "transpose", "t", "swapaxes", "movedim")
def permute(flow: Flow, op: Op) -> None:
    """Axes change places, and so do the axes on which they depend."""
    x = op.args[0]
    rank = len(flow.shape(x))
    if op.name.startswith("aten.t") and not op.name.startswith("aten.transpose"):
        order = list(range(rank))[::-1]
    elif op.name.startswith("aten.permute"):
        order = [axis % rank for axis in op.args[1]]
    else:
        order = list(range(rank))
        a, b = op.args[1] % rank, op.args[2] % rank
        order[a], order[b] = order[b], order[a]
    if flow.program.values[x.uid].kind == "parameter" and x.uid not in flow.axes:
        flow.origin[x.uid] = (x.uid, tuple(range(rank)))
        flow.turned[op.outputs[0]] = (x.uid, order)  # who reads it knows which labels it should have
    else:
        labels = flow.labels(x)
        flow.define(op.outputs[0], [labels[axis].transpose(order) for axis in order])
    if x.uid in flow.origin:
        parameter, axes = flow.origin[x.uid]
        flow.origin[op.outputs[0]] = (parameter, tuple(axes[axis] for axis in order))


@rule("unsqueeze")
def unsqueeze(flow: Flow, op: Op) -> None:
    """A new axis of size 1."""
    x, axis = op.args[0], op.args[1]
    rank = len(flow.shape(x)) + 1
    axis %= rank
    arrays = [np.expand_dims(array, axis) for array in flow.labels(x)]
    arrays.insert(axis, np.zeros((1,) * rank, dtype=np.int64))
    flow.define(op.outputs[0], arrays)


@rule("squeeze")
def squeeze(flow: Flow, op: Op) -> None:
    """Axes of size 1 go. An axis pruned down to 1 would go too, by accident, so the others named keep two or more."""
    x = op.args[0]
    shape = flow.shape(x)
    given = op.args[1] if len(op.args) > 1 else range(len(shape))
    axes = {axis % len(shape) for axis in ([given] if isinstance(given, int) else given)} if shape else set()
    gone = tuple(axis for axis in axes if shape[axis] == 1)
    for axis in axes - set(gone):
        if flow.labels(x)[axis].any():
            flow.comparisons[Dim(x.uid, axis), Const(1), False] = op.where
    kept = [array for axis, array in enumerate(flow.labels(x)) if axis not in gone]
    flow.define(op.outputs[0], [np.squeeze(array, axis=gone) for array in kept])


@rule("flip")
def flip(flow: Flow, op: Op) -> None:
    """The entries of some axes in reverse order, and their labels too."""
    rank = len(flow.shape(op.args[0]))
    axes = tuple(axis % rank for axis in op.args[1])
    flow.define(op.outputs[0], [np.flip(array, axes) for array in flow.labels(op.args[0])])


@rule("as_strided")
def as_strided(flow: Flow, op: Op) -> None:
    """A pool on channels-last memory restates the strides it has; any other use reads memory in an order of its own."""
    x, shape, strides = op.args[:3]
    value = flow.program.values[x.uid]
    same = tuple(shape) == value.shape and all(
        new == old for size, new, old in zip(shape, strides, value.strides, strict=True) if size > 1
    )
    if not same:
        flow.freeze_all(op, f"{op.name} in {op.where}")
        return
    flow.define(op.outputs[0], flow.labels(x))


@rule("glu")
def gated_linear_unit(flow: Flow, op: Op) -> None:
    """The first half of an axis times a gate of the second half: each channel and its gate are one."""
    x = op.args[0]
    rank = len(flow.shape(x))
    axis = (op.args[1] if len(op.args) > 1 else -1) % rank
    half = flow.shape(x)[axis] // 2
    first, second = _cut(flow, x, axis, slice(0, half)), _cut(flow, x, axis, slice(half, None))
    for value, gate in zip(first, second, strict=True):
        flow.store.unify(value, gate, f"the gate in {op.where}")
    flow.define(op.outputs[0], first)


@rule("slice")
def slice_axis(flow: Flow, op: Op) -> None:
    """A contiguous piece of an axis: its ends must fall on the same entries after removal."""
    x = op.args[0]
    axis = op.args[1] % len(flow.shape(x)) if len(op.args) > 1 else 0
    size = flow.shape(x)[axis]
    start, stop, step = (*op.args[2:], *(None, None, 1)[len(op.args[2:]) :])
    given = (start or 0, size if stop is None else stop)
    start, stop, _ = slice(start, stop).indices(size)
    array = flow.labels(x)[axis]
    if step != 1:
        flow.store.freeze(array, f"a slice with a step in {op.where}")
    elif array.any() and (number := _even_pieces(op, size)):
        why = f"the split in {op.where}"
        flow.equal(flow.vector(x, axis, why).reshape(number, -1), f"every piece must stay equal in {why}")
    elif array.any() and (start > 0 or stop < size):
        exprs = op.call.slices.get(axis, (None, None)) if op.call else (None, None)
        vector = flow.vector(x, axis, f"a slice in {op.where}")
        for position, number, expr, end in zip((start, stop), given, exprs, ("start", "end"), strict=True):
            if not 0 < position < size:
                continue
            if number < 0:  # counted from the back: so many must be left there
                left = Const(size - position) if expr is None else negative(expr)
                flow.require(vector[position:], left, op, f"the {end} of a slice")
            else:
                flow.require(vector[:position], expr or Const(position), op, f"the {end} of a slice")
    flow.define(op.outputs[0], _cut(flow, x, axis, slice(start, stop, step)))


def _even_pieces(op: Op, size: int) -> int | None:
    """The number of equal pieces that a slice is one of, where the code asked for a number of them."""
    if op.call is None or op.call.name not in EVEN_SPLITS:
        return None
    number = op.call.number
    return number.value if isinstance(number, Const) and size % number.value == 0 else None


def _piece(array: LabelArray, axis: int, piece: slice) -> LabelArray:
    return array[tuple(piece if other == axis else slice(None) for other in range(array.ndim))]


def _cut(flow: Flow, x: Ref, axis: int, piece: slice) -> list[LabelArray]:
    """Label arrays of a slice of ``x`` along ``axis``, also for the arrays that depend on that axis."""
    index = [slice(None)] * len(flow.shape(x))
    index[axis] = piece
    return [array[tuple(index)] if array.shape[axis] > 1 else array for array in flow.labels(x)]


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk")
def split(flow: Flow, op: Op) -> None:
    """Neighbouring pieces of an axis. ``chunk`` makes equal pieces of what is left, so they must lose equally many."""
    x = op.args[0]
    given = op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)
    axis = given % len(flow.shape(x))
    sizes = [flow.shape(uid)[axis] for uid in op.outputs]
    ends = list(itertools.accumulate(sizes))
    why = f"the split in {op.where}"
    if flow.labels(x)[axis].any():
        vector = flow.vector(x, axis, why)
        pieces = [vector[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        call = op.call
        if len(set(sizes)) == 1 and call is not None and call.name in ("chunk", *RECURRENT):
            flow.equal(np.stack(pieces), f"every piece must stay equal in {why}")
        elif call is not None and call.name.startswith("split") and call.sizes:
            exprs = call.sizes if len(call.sizes) == len(sizes) else call.sizes[:1] * len(sizes)
            for piece, expr, size in zip(pieces, exprs, sizes, strict=True):
                known = expr if len(call.sizes) == len(sizes) or size == sizes[0] else Const(size)
                flow.require(piece, known, op, "the size of a piece")
        else:
            flow.store.freeze(vector, f"{why} has sizes that cannot be followed")
    for uid, end, size in zip(op.outputs, ends, sizes, strict=True):
        flow.define(uid, _cut(flow, x, axis, slice(end - size, end)))


@rule("select", "unbind")
def select(flow: Flow, op: Op) -> None:
    """One index of an axis, or each on its own: the code names it, so it must be the same entry afterwards."""
    x = op.args[0]
    given = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)
    axis = given % len(flow.shape(x))
    size = flow.shape(x)[axis]
    first = op.args[2] if op.name == "aten.select" else 0
    why = f"{op.name} in {op.where} names an index of it"
    if op.name == "aten.unbind":
        flow.freeze(x, axis, why)
    else:  # the entry itself stays, and so do those from which the code counts to it
        counted = slice(0, first + 1) if first >= 0 else slice(first % size, size)
        array = flow.labels(x)[axis]
        flow.store.freeze(array if array.shape[axis] == 1 else _piece(array, axis, counted), why)
    for offset, uid in enumerate(op.outputs):
        index = (first + offset) % flow.shape(x)[axis]
        arrays = [
            np.take(array, index if array.shape[axis] > 1 else 0, axis=axis)
            for other, array in enumerate(flow.labels(x))
            if other != axis
        ]
        flow.define(uid, arrays)


@rule("cat", "concat")
def concat(flow: Flow, op: Op) -> None:
    """Labels are laid end to end along the axis; every other axis lies on top of its neighbours."""
    tensors = [ref for ref in op.args[0] if flow.shape(ref) != (0,)]
    result = op.outputs[0]
    rank = len(flow.shape(result))
    if not tensors:  # nothing but empty vectors
        flow.define(result, flow.fixed(flow.shape(result)))
        return
    given = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)
    axis = given % rank
    why = f"the concatenation in {op.where}"
    arrays = []
    for other in range(rank):
        if other == axis:
            pieces = []
            for ref in tensors:
                array = flow.labels(ref)[axis]
                shape = list(array.shape)
                shape[axis] = flow.shape(ref)[axis]
                pieces.append(np.broadcast_to(array, shape))
            depends = tuple(max(piece.shape[a] for piece in pieces) if a != axis else -1 for a in range(rank))
            full = [np.broadcast_to(p, [p.shape[axis] if s == -1 else s for s in depends]) for p in pieces]
            arrays.append(np.concatenate(full, axis=axis))
        else:
            tied = [
                flow.tied(ref, other, why, depends=[a for a in range(rank) if a not in (axis, other)])
                for ref in tensors
            ]
            for array in tied[1:]:
                flow.store.unify(tied[0], array, why)
            arrays.append(min(tied, key=lambda array: array.size))
    flow.define(result, arrays)


@rule("stack")
def stack(flow: Flow, op: Op) -> None:
    """Equal tensors on a new axis, which stays whole."""
    tensors, result = op.args[0], op.outputs[0]
    rank = len(flow.shape(result))
    axis = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % rank
    first = flow.labels(tensors[0])
    for ref in tensors[1:]:
        for mine, theirs in zip(first, flow.labels(ref), strict=True):
            flow.store.unify(mine, theirs, f"the stack in {op.where}")
    arrays = [np.expand_dims(array, axis) for array in first]
    arrays.insert(axis, np.zeros((1,) * rank, dtype=np.int64))
    flow.define(result, arrays)


@rule("constant_pad_nd")
def pad(flow: Flow, op: Op) -> None:
    """Padded axes get entries that stay; a padded spatial axis was whole already."""
    x, amounts = op.args[0], op.args[1]
    rank = len(flow.shape(x))
    arrays = list(flow.labels(x))
    for pair in range(len(amounts) // 2):
        before, after = amounts[2 * pair : 2 * pair + 2]
        axis = rank - 1 - pair
        if (before, after) == (0, 0):
            continue
        if before < 0 or after < 0:
            flow.freeze(x, axis, f"negative padding in {op.where}")
        array = flow.labels(x)[axis]
        exprs = op.call.sizes[2 * pair : 2 * pair + 2] if op.call is not None and op.call.sizes is not None else ()
        for expr, amount in zip(exprs, (before, after), strict=False):
            flow.pin(expr, amount, op)  # what is padded stays, so there must be as much of it
        if array.any() and array.shape[axis] > 1:
            widths = [(0, 0)] * rank
            widths[axis] = (max(before, 0), max(after, 0))
            arrays[axis] = np.pad(array, widths)
        for other in range(rank):
            if other != axis:
                arrays[other] = flow.tied(
                    x, other, f"padding in {op.where}", depends=[a for a in range(rank) if a != axis]
                )
    shape = flow.shape(op.outputs[0])
    zero = np.zeros((1,) * rank, dtype=np.int64)
    flow.define(op.outputs[0], [a if a.shape[i] in (1, shape[i]) else zero for i, a in enumerate(arrays)])


@rule("embedding")
def embedding(flow: Flow, op: Op) -> None:
    """Rows are looked up by number and stay; columns are channels."""
    weight, indices = op.args[0], op.args[1]
    why = f"the embedding in {op.where}"
    flow.freeze(weight, 0, f"{why} looks rows up by number")
    flow.makes(weight, 1, flow.vector(weight, 1, why))
    rank = len(flow.shape(op.outputs[0]))
    columns = flow.vector(weight, 1, why).reshape((1,) * (rank - 1) + (-1,))
    flow.define(op.outputs[0], [*flow.fixed(flow.shape(op.outputs[0]))[:-1], columns])
    for axis in range(len(flow.shape(indices))):
        flow.freeze(indices, axis, why)


@rule("embedding_renorm")
def embedding_renorm(flow: Flow, op: Op) -> None:
    """Rows that are longer than allowed are cut to that length: columns of zeros are no part of it."""
    weight, indices = op.args[0], op.args[1]
    flow.freeze(weight, 0, f"the embedding in {op.where} looks rows up by number")
    for axis in range(len(flow.shape(indices))):
        flow.freeze(indices, axis, f"the embedding in {op.where}")
    flow.define(op.outputs[0], flow.labels(weight))
