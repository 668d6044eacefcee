"""Products that sum over channels: convolution, linear, matrix products."""

from __future__ import annotations

import numpy as np

from torchpare.graph.flow import Flow, along
from torchpare.graph.labels import LabelArray
from torchpare.graph.program import Op, Ref
from torchpare.graph.rules.elementwise import merge_aligned
from torchpare.graph.rules.table import rule

__all__ = ["convolution", "linear", "matrix_product"]


@rule("convolution")
def convolution(flow: Flow, op: Op) -> None:
    """Any convolution: plain, grouped, depthwise, transposed, in one to three dimensions.

    Space is carried by a kernel of one, and summed over by one as long as what it reads; any other holds it.

    Input channels are reshaped to (G, I) and output channels to (G, O/G); a group is one label on both sides, so that
    whole groups can go, and slots inside a group are free to differ between groups while their counts agree.
    """
    x, weight, bias, *_, transposed, _padding, groups = op.args[:9]
    shape, rank = flow.shape(weight), len(flow.shape(weight))
    why = f"the convolution in {op.where}"
    kernel, space = zip(*(_space(flow, op, axis, why) for axis in range(2, rank)), strict=True)
    inputs = flow.vector(x, 1, why)
    channels_in = len(inputs)
    slots = channels_in // groups
    group_in, slot_in = _groups(flow, inputs, (groups, slots), why)
    read = {} if groups > 1 else {0 if transposed else 1: along(inputs, 0 if transposed else 1, rank)}
    flow.follow(weight, {**read, **dict(enumerate(kernel, start=2))}, why)
    if transposed:  # weight is (I, O/G, ...): its rows read, its columns make
        flow.store.unify(flow.vector(weight, 0, why), inputs, why)
        columns = np.broadcast_to(_two(flow, weight, 1, why), (channels_in, shape[1]))
        out = flow.store.either(group_in, columns[::slots]).reshape(-1)
        flow.store.unify(np.repeat(columns[::slots], slots, axis=0), columns, why)
        flow.equal(columns[::slots], f"every group must make equally many in {why}")
        flow.reads(weight, 0, x)
        per_row = np.repeat(out.reshape(groups, -1), slots, axis=0)
        flow.makes(weight, 1, out, per_row.reshape(per_row.shape + (1,) * (rank - 2)))
    else:
        rows = flow.vector(weight, 0, why)
        per_group = shape[0] // groups
        group_out, _slot_out = _groups(flow, rows, (groups, per_group), why)
        flow.store.unify(group_in, group_out, why)
        if groups > 1:
            columns = np.broadcast_to(_two(flow, weight, 1, why), (shape[0], slots)).reshape(groups, per_group, slots)
            alike = (columns == columns[:, :1]).all()  # all rows of a group have the same labels: one will do
            flow.store.unify(columns[:, :1] if alike else columns, slot_in[:, None], why)
        out = rows
        flow.makes(weight, 0, out)
        if groups == 1:
            flow.reads(weight, 1, x)
        else:
            per_row = np.repeat(inputs.reshape(groups, slots), per_group, axis=0)
            flow.reads(weight, 1, x, per_row.reshape(per_row.shape + (1,) * (rank - 2)))
    if groups > 1 and op.call is not None and op.call.number is not None:
        flow.require(np.broadcast_to(group_in, (groups, 1)).reshape(-1), op.call.number, op, "the number of groups")
    elif groups > 1:
        flow.store.freeze(group_in, f"the number of groups of {why} is fixed")
    if isinstance(bias, Ref):
        flow.follow(bias, {0: out}, why)
        flow.makes(bias, 0, out)
    result = op.outputs[0]
    batch = flow.tied(x, 0, why)
    flow.define(
        result,
        [
            batch.reshape((-1,) + (1,) * (rank - 1)),
            along(out, 1, rank),
            *(along(labels, axis, rank) for axis, labels in enumerate(space, 2)),
        ],
    )


def _space(flow: Flow, op: Op, axis: int, why: str) -> tuple[LabelArray, LabelArray]:
    """The labels of the kernel along one axis of space, as an array of its rank, and those of that axis of the result.

    A kernel stays as it is, unless it is a product with the whole axis.
    """
    x, weight, _bias, stride, padding, dilation, transposed = op.args[:7]
    rank, size, kernel = len(flow.shape(x)), flow.shape(x)[axis], flow.shape(weight)[axis]
    step, border, gap = (numbers[min(axis - 2, len(numbers) - 1)] for numbers in (stride, padding, dilation))
    fixed = np.zeros((1,) * rank, dtype=np.int64)
    if border == 0 and not transposed:
        if kernel == step == 1:
            return fixed, flow.vector(x, axis, why)
        if kernel == size and gap == 1:
            return along(flow.vector(x, axis, why), axis, rank), np.zeros(1, dtype=np.int64)
    flow.freeze(x, axis, f"spatial axis of {why}")
    return fixed, np.zeros(flow.shape(op.outputs[0])[axis], dtype=np.int64)


def _groups(flow: Flow, channels: LabelArray, sizes: tuple[int, int], why: str) -> tuple[LabelArray, LabelArray]:
    """Channels as groups and the slots in them. A group goes as a whole, whatever its channels were dealt out by."""
    group, slot = flow.split(channels, sizes, (False, False), why, inward=True)
    flow.store.unify(group[:, :1], group, why)
    if slot.shape[0] > 1:
        flow.equal(slot, f"every group must keep equally many in {why}")
    return group[:, :1], slot


def _two(flow: Flow, weight: Ref, axis: int, why: str) -> LabelArray:
    """One label array of a convolution's weight over its two channel axes."""
    array = flow.tied(weight, axis, why, depends=(0, 1))
    return array.reshape(array.shape[:2])


@rule("mm", "addmm", "bmm", "baddbmm", "mv", "dot", "vdot", "addmv", "_sparse_addmm")
def matrix_product(flow: Flow, op: Op) -> None:
    """Products of matrices, with a batch axis before them or not: the summed axis is one, the others are carried."""
    added = op.name.startswith(("aten.addm", "aten.badd", "aten._sparse_addm"))
    left, right = op.args[1:3] if added else op.args[:2]
    batched = op.name in ("aten.bmm", "aten.baddbmm")
    why = f"the matrix product in {op.where}"
    batch = (0,) if batched else ()
    rank_left, rank_right = len(flow.shape(left)), len(flow.shape(right))
    summed_left, summed_right = rank_left - 1, max(rank_right - 2, 0)
    over_left = flow.tied(left, summed_left, why, depends=batch)
    if batched:
        over_right = flow.tied(right, summed_right, why, depends=batch)
        flow.store.unify(
            np.moveaxis(over_left, summed_left, -1).reshape(
                -1 if over_left.shape[0] > 1 else 1, over_left.shape[summed_left]
            ),
            np.moveaxis(over_right, summed_right, -1).reshape(
                -1 if over_right.shape[0] > 1 else 1, over_right.shape[summed_right]
            ),
            why,
        )
    else:
        flow.follow(right, {summed_right: along(over_left.reshape(-1), summed_right, rank_right)}, why)
    flow.reads(left, summed_left, right)
    if flow.shows_parameter(left) and flow.shows_parameter(right):  # a weight in factors: the second makes their rank
        flow.makes(right, summed_right, flow.vector(right, summed_right, why))
    else:
        flow.reads(right, summed_right, left)
    axes = []
    rank = len(flow.shape(op.outputs[0]))
    if batched:
        flow.store.unify(flow.vector(left, 0, why), flow.vector(right, 0, why), why)
        axes.append(along(flow.vector(left, 0, why), 0, rank))
    if rank_left > 1:
        axes.append(_free(flow, left, rank_left - 2, len(axes), rank, batch, why))
        flow.makes(left, rank_left - 2, flow.vector(left, rank_left - 2, why))
    if rank_right > 1:
        axes.append(_free(flow, right, rank_right - 1, len(axes), rank, batch, why))
        flow.makes(right, rank_right - 1, flow.vector(right, rank_right - 1, why))
    flow.define(op.outputs[0], axes)
    if added:
        _add_bias(flow, op, op.args[0])


_ALIGNED = 8
"""The kernel wants rows of a multiple of 16 bytes: that many of the shortest floats it takes."""


@rule("_grouped_mm", "transformers.grouped_mm_fallback")
def grouped_product(flow: Flow, op: Op) -> None:
    """Rows sorted by group, (S, in), each times the matrix of its group, (groups, in, out): experts run together."""
    x, weight, ends = op.args[:3]
    why = f"the grouped matrix product in {op.where}"
    if len(flow.shape(x)) != 2 or len(flow.shape(weight)) != 3 or not isinstance(ends, Ref):
        flow.freeze_all(op, f"{why} groups otherwise than by rows")
        return
    flow.freeze(ends, 0, f"{why} knows groups by number")
    flow.freeze(weight, 0, f"{why} knows groups by number")
    flow.store.unify(flow.vector(x, 1, why), flow.vector(weight, 1, why), why)
    flow.reads(weight, 1, x)
    out = flow.vector(weight, 2, why)
    flow.makes(weight, 2, out)
    if op.name == "aten._grouped_mm":
        flow.aligned += [(flow.vector(weight, 1, why), _ALIGNED), (out, _ALIGNED)]
    flow.define(op.outputs[0], [flow.vector(x, 0, why).reshape(-1, 1), along(out, 1, 2)])


def _free(flow: Flow, ref: Ref, axis: int, place: int, rank: int, batch: tuple[int, ...], why: str) -> LabelArray:
    """The labels of an axis that is carried, at its place in the product."""
    array = flow.tied(ref, axis, why, depends=batch)
    shape = [1] * rank
    shape[place] = array.shape[axis]
    if batch:
        shape[0] = array.shape[0]
    return array.reshape(shape)


def _add_bias(flow: Flow, op: Op, bias: Ref) -> None:
    made, size = flow.labels(op.outputs[0])[-1], flow.shape(op.outputs[0])[-1]
    if flow.shape(bias) != (size,) or made.size != made.shape[-1]:
        merge_aligned(flow, op, [Ref(op.outputs[0]), bias], flow.shape(op.outputs[0]))
    else:
        flow.follow(bias, {0: made.reshape(-1)}, f"{op.name} in {op.where} combines it with something fixed")
    if len(flow.shape(bias)) == 1:
        flow.makes(bias, 0, flow.vector(bias, 0, "a bias"))


@rule("linear", "mkldnn_linear")
def linear(flow: Flow, op: Op) -> None:
    """``x @ weight.T + bias`` where it is one operator."""
    x, weight = op.args[:2]
    bias = op.args[2] if len(op.args) > 2 else None
    why = f"the linear layer in {op.where}"
    last = len(flow.shape(x)) - 1
    rows = flow.vector(weight, 0, why)
    flow.store.unify(flow.vector(x, last, why), flow.vector(weight, 1, why), why)
    flow.makes(weight, 0, rows)
    flow.reads(weight, 1, x)
    if isinstance(bias, Ref):
        flow.follow(bias, {0: rows}, why)
        flow.makes(bias, 0, rows)
    carried = [flow.tied(x, axis, why, depends=[a for a in range(last) if a != axis]) for axis in range(last)]
    flow.define(op.outputs[0], [*carried, along(rows, last, last + 1)])


@rule("_trilinear")
def trilinear(flow: Flow, op: Op) -> None:
    """The product of three tensors with axes inserted, summed over some: what `nn.Bilinear` is made of."""
    tensors, inserted, summed = op.args[:3], op.args[3:6], set(op.args[6])
    why = f"the bilinear layer in {op.where}"
    rank = len(flow.shape(tensors[0])) + len(inserted[0])
    full = [
        [np.expand_dims(array, tuple(new)) for array in flow.labels(ref)]
        for ref, new in zip(tensors, inserted, strict=True)
    ]
    axes = [iter(arrays) for arrays in full]
    merged: list[LabelArray] = []
    for axis in range(rank):
        own = [next(arrays) for arrays, new in zip(axes, inserted, strict=True) if axis not in new]
        for other in own[1:]:
            flow.store.unify(own[0], other, why)
        merged.append(min(own, key=lambda array: array.size))
    flow.define(
        op.outputs[0], [np.squeeze(a, axis=tuple(summed)) for axis, a in enumerate(merged) if axis not in summed]
    )
    weight = tensors[1]
    if flow.shows_parameter(weight) and len(flow.shape(weight)) == 3:
        flow.makes(weight, 0, flow.vector(weight, 0, why))
        flow.reads(weight, 1, tensors[0])
        flow.reads(weight, 2, tensors[2])
