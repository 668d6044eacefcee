"""Operators that look entries up by number: the addressed axis stays whole, the others are carried."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from torchpare.graph.flow import Axes, Flow
from torchpare.graph.labels import LabelArray
from torchpare.graph.program import Op, Ref
from torchpare.graph.rules.elementwise import merge_aligned
from torchpare.graph.rules.table import rule
from torchpare.graph.zeros import ALIASES

__all__: list[str] = []


@rule("index", "_unsafe_index")
def index(flow: Flow, op: Op) -> None:
    """``x[i, :, j]`` with tensors for ``i`` and ``j``."""
    x, indices = op.args[:2]
    flow.define(op.outputs[0], _looked_up(flow, op, x, indices, flow.shape(op.outputs[0])))


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(flow: Flow, op: Op) -> None:
    """``x[i, :, j] = values``: axes that no index addresses are those of the values."""
    x, indices, values = op.args[:3]
    places = [ref for ref in indices if isinstance(ref, Ref)]
    broadcast = max((len(flow.shape(ref)) for ref in places if not _is_mask(flow, ref, x, indices)), default=1)
    passed = [axis for axis in range(len(flow.shape(x))) if axis not in _addressed(flow, x, indices)]
    rank = broadcast + len(passed)
    first = _first_place(flow, x, indices)
    shape = [flow.shape(x)[axis] for axis in passed]
    full = (*shape[:first], *([-1] * broadcast), *shape[first:])
    looked_up = _looked_up(flow, op, x, indices, full)
    why = f"{op.name} in {op.where}"
    lead = rank - len(flow.shape(values))
    for axis, labels in enumerate(flow.labels(values)):
        if flow.shape(values)[axis] == 1:
            continue
        own = looked_up[axis + lead]
        if own.any() and lead >= 0:
            flow.store.unify(own, labels.reshape((1,) * max(lead, 0) + labels.shape), why)
        else:
            flow.freeze(values, axis, why)
    flow.define(op.outputs[0], flow.labels(x))


def _is_mask(flow: Flow, ref: Ref, x: Ref, indices: Sequence[Ref | None]) -> bool:
    """Whether an index is a boolean mask over several axes: more axes are addressed than there are indices."""
    return len(flow.shape(ref)) > 1 and len(indices) == 1 and flow.shape(ref) == flow.shape(x)[: len(flow.shape(ref))]


def _addressed(flow: Flow, x: Ref, indices: Sequence[Ref | None]) -> list[int]:
    """The axes of ``x`` that indices address."""
    axes, axis = [], 0
    for item in indices:
        width = len(flow.shape(item)) if item is not None and _is_mask(flow, item, x, indices) else 1
        if item is not None:
            axes.extend(range(axis, axis + width))
        axis += width
    return axes


def _first_place(flow: Flow, x: Ref, indices: Sequence[Ref | None]) -> int:
    """Where the axes of the indices lie in the result: at the first addressed axis if these are neighbours."""
    axes = _addressed(flow, x, indices)
    return axes[0] if axes and axes == list(range(axes[0], axes[-1] + 1)) else 0


def _looked_up(flow: Flow, op: Op, x: Ref, indices: Sequence[Ref | None], shape: Sequence[int]) -> Axes:
    """Label arrays of the result of a look-up."""
    why = f"{op.name} in {op.where} looks its entries up by number"
    addressed = _addressed(flow, x, indices)
    for axis in addressed:
        flow.freeze(x, axis, why)
    for ref in indices:
        for axis in range(len(flow.shape(ref)) if ref is not None else 0):
            flow.freeze(ref, axis, why)  # type: ignore[arg-type] - None has no axes
    passed = [axis for axis in range(len(flow.shape(x))) if axis not in addressed]
    first, new = _first_place(flow, x, indices), len(shape) - len(passed)
    carried: list[LabelArray] = []
    for axis in passed:
        array = np.squeeze(flow.tied(x, axis, why, depends=passed), axis=tuple(addressed))
        carried.append(np.expand_dims(array, tuple(range(first, first + new))))
    return [*carried[:first], *flow.fixed(shape)[first : first + new], *carried[first:]]


@rule("index_select")
def index_select(flow: Flow, op: Op) -> None:
    """Some entries of one axis, by number."""
    x, axis, numbers = op.args[:3]
    _carry_others(flow, op, x, axis)
    for place in range(len(flow.shape(numbers))):
        flow.freeze(numbers, place, f"{op.name} in {op.where}")


@rule("linalg_cross")
def cross_product(flow: Flow, op: Op) -> None:
    """Vectors of three along one axis, which stays whole; all other axes lie on top of each other."""
    axis = op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", -1)
    for ref in op.inputs:
        flow.freeze(ref, axis % len(flow.shape(ref)), f"{op.name} in {op.where} looks at whole entries of it")
    flow.define(op.outputs[0], merge_aligned(flow, op, list(op.inputs), flow.shape(op.outputs[0])))


@rule("topk", "sort", "argsort", "kthvalue", "mode", "median", "cummax", "cummin", "cumprod", "logcumsumexp", "unfold")
def ordered(flow: Flow, op: Op) -> None:
    """Operators that compare or collect the entries of an axis: it stays whole, the others are carried."""
    position = 2 if op.name in ("aten.topk", "aten.kthvalue") else 1
    given = op.args[position] if len(op.args) > position else op.kwargs.get("dim", -1)
    if not isinstance(given, int) or isinstance(given, bool):
        given = next((a for a in op.args[1:] if isinstance(a, int) and not isinstance(a, bool)), -1)
    if not flow.shape(op.args[0]) or (op.name == "aten.median" and len(op.args) == 1):
        flow.freeze_all(op, f"{op.name} in {op.where}")
        return
    _carry_others(flow, op, op.args[0], given)


def _carry_others(flow: Flow, op: Op, x: Ref, axis: int) -> None:
    """Freeze one axis; every output has the other axes of ``x``, with whatever else it has fixed."""
    rank = len(flow.shape(x))
    axis %= rank
    why = f"{op.name} in {op.where} looks at whole entries of it"
    flow.freeze(x, axis, why)
    others = [other for other in range(rank) if other != axis]
    for uid in op.outputs:
        shape = flow.shape(uid)
        arrays = flow.fixed(shape)
        dropped = len(shape) < rank
        for other in others:
            array = flow.tied(x, other, why, depends=others)
            place = other - (1 if dropped and other > axis else 0)
            if dropped:
                array = np.squeeze(array, axis=axis)
            arrays[place] = array.reshape(array.shape + (1,) * (len(shape) - array.ndim))
        flow.define(uid, arrays)


@rule("gather", "take_along_dim")
def gather(flow: Flow, op: Op) -> None:
    """``out[i][j] = x[index[i][j]][j]``: off the addressed axis, x and index lie on top of each other."""
    x, axis, numbers = op.args[:3]
    rank = len(flow.shape(x))
    why = f"{op.name} in {op.where} looks its entries up by number"
    if rank == 0:
        flow.freeze_all(op, why)
        return
    axis %= rank
    flow.freeze(x, axis, why)
    flow.freeze(numbers, axis, why)
    others = [other for other in range(rank) if other != axis]
    arrays = flow.fixed(flow.shape(op.outputs[0]))
    for other in others:
        own = flow.tied(x, other, why, depends=others)
        if flow.shape(x)[other] == flow.shape(numbers)[other]:
            flow.store.unify(own, flow.labels(numbers)[other], why)
            arrays[other] = own
        else:
            flow.store.freeze(own, why)
            flow.freeze(numbers, other, why)
    flow.define(op.outputs[0], arrays)


@rule("scatter", "scatter_add", "scatter_reduce", "_scatter_reduce")
def scatter(flow: Flow, op: Op) -> None:
    """``x[index[i][j]][j] = source[i][j]``: off the addressed axis, all three lie on top of each other."""
    x, axis = op.args[:2]
    tensors = [argument for argument in op.args[2:] if isinstance(argument, Ref)]
    rank = len(flow.shape(x))
    why = f"{op.name} in {op.where} writes its entries by number"
    for other in range(rank):
        for ref in tensors:
            if len(flow.shape(ref)) != rank:
                continue
            if other != axis % rank and flow.shape(ref)[other] == flow.shape(x)[other]:
                flow.store.unify(flow.vector(x, other, why), flow.vector(ref, other, why), why)
            else:
                flow.freeze(ref, other, why)
                flow.freeze(x, other, why)
        if other == axis % rank:
            flow.freeze(x, other, why)
    flow.define(op.outputs[0], flow.labels(x))


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def index_add(flow: Flow, op: Op) -> None:
    """Slices of one axis are written by number; the other axes are those of the source."""
    x, axis, numbers, *rest = op.args[:4]
    rank = len(flow.shape(x))
    why = f"{op.name} in {op.where} writes its entries by number"
    axis %= max(rank, 1)
    flow.freeze(x, axis, why)
    for place in range(len(flow.shape(numbers))):
        flow.freeze(numbers, place, why)
    for source in rest:
        if isinstance(source, Ref) and len(flow.shape(source)) == rank:
            flow.freeze(source, axis, why)
            for other in range(rank):
                if other != axis:
                    flow.store.unify(flow.labels(x)[other], flow.labels(source)[other], why)
    flow.define(op.outputs[0], flow.labels(x))


@rule("slice_scatter", "select_scatter")
def overwrite(flow: Flow, op: Op) -> None:
    """A copy with a piece of one axis replaced: that axis stays whole, the others are those of the piece."""
    x, piece = op.args[:2]
    rank = len(flow.shape(x))
    axis = (op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)) % rank
    why = f"{op.name} in {op.where}"
    flow.freeze(x, axis, why)
    if len(flow.shape(piece)) == rank:
        flow.freeze(piece, axis, why)
    merged = list(flow.labels(x))
    source = list(flow.labels(piece))
    if len(source) < rank:
        source = [np.expand_dims(array, axis) for array in source]
        source.insert(axis, np.zeros((1,) * rank, dtype=np.int64))
    for other in range(rank):
        if other != axis:
            flow.store.unify(merged[other], source[other], why)
    flow.define(op.outputs[0], merged)


@rule(
    *("tril", "triu", "diagonal", "diag_embed", "trace", "_pdist_forward", "unfold_backward"),
    *("_linalg_slogdet", "_linalg_det", "linalg_inv_ex", "linalg_cholesky_ex", "linalg_lu_factor_ex"),
    *("_linalg_svd", "_linalg_eigh", "_linalg_solve_ex", "linalg_solve_triangular", "linalg_householder_product"),
    *("linalg_pinv", "cholesky_inverse", "cholesky_solve", "linalg_lu"),
)
def matrices(flow: Flow, op: Op) -> None:
    """Operators that know rows and columns of matrices by number: the last two axes stay whole."""
    if op.name not in ("aten.tril", "aten.triu"):
        flow.freeze_all(op, f"{op.name} in {op.where}")
        return
    rank = len(flow.shape(op.args[0]))
    for axis in range(max(rank - 2, 0), rank):
        flow.freeze(op.args[0], axis, f"{op.name} in {op.where}")
    flow.define(op.outputs[0], flow.labels(op.args[0]))


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(flow: Flow, op: Op) -> None:
    """A Fourier transform mixes the axes it runs over; the others are carried."""
    x, axes = op.args[:2]
    rank = len(flow.shape(x))
    mixed = {axis % rank for axis in axes}
    why = f"the Fourier transform in {op.where}"
    for axis in mixed:
        flow.freeze(x, axis, why)
    others = [axis for axis in range(rank) if axis not in mixed]
    arrays = flow.fixed(flow.shape(op.outputs[0]))
    for axis in others:
        arrays[axis] = flow.tied(x, axis, why, depends=others)
    flow.define(op.outputs[0], arrays)


@rule("view_as_real", "view_as_complex")
def complex_view(flow: Flow, op: Op) -> None:
    """Real and imaginary part as a last axis of two, or the other way round."""
    x, rank = op.args[0], len(flow.shape(op.args[0]))
    why = f"{op.name} in {op.where}"
    if op.name == "aten.view_as_real":
        arrays = [array[..., None] for array in flow.labels(x)]
        flow.define(op.outputs[0], [*arrays, np.zeros((1,) * (rank + 1), dtype=np.int64)])
        return
    flow.freeze(x, rank - 1, why)
    value = flow.program.values[x.uid]
    if value.strides != _packed(value.shape):  # pairs of a piece: where the next row begins must stay a multiple of two
        shown = {uid: op.inputs[0].uid for op in flow.program.ops if op.name in ALIASES for uid in op.outputs}
        uid = x.uid
        while uid in shown:
            uid = shown[uid]
            flow.aligned += [(labels, 2) for labels in flow.labels(uid)[-1:]]
    others = range(rank - 1)
    flow.define(op.outputs[0], [flow.tied(x, axis, why, depends=others)[..., 0] for axis in others])


def _packed(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor whose entries lie one after the other."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(flow: Flow, op: Op) -> None:
    """Sums of rows that are looked up by number; columns are channels."""
    weight = op.args[0]
    why = f"the embedding in {op.where}"
    flow.freeze(weight, 0, f"{why} looks rows up by number")
    columns = flow.vector(weight, 1, why)
    flow.makes(weight, 1, columns)
    for ref in op.inputs[1:]:
        for axis in range(len(flow.shape(ref))):
            flow.freeze(ref, axis, why)
    for place, uid in enumerate(op.outputs):
        arrays = flow.fixed(flow.shape(uid))
        if place == 0:
            arrays[1] = columns.reshape(1, -1)
        flow.define(uid, arrays)


@rule(
    *("masked_select", "masked_scatter", "nonzero", "unique_consecutive", "_unique2", "bincount", "histc"),
    *("_sparse_coo_tensor_with_dims_and_tensors", "_to_sparse", "_to_dense", "_coalesce", "_indices", "_values"),
    *(
        "isin",
        "take",
        "put",
        "nanmedian",
        "affine_grid_generator",
        "_sparse_sparse_matmul",
        "indices",
        "values",
        "crow_indices",
        "col_indices",
        "bucketize",
        "searchsorted",
    ),
    "repeat_interleave",
)
def by_value(flow: Flow, op: Op) -> None:
    """Operators whose result depends on values, element by element: everything stays."""
    flow.freeze_all(op, f"{op.name} in {op.where} depends on the values")


@rule("_pack_padded_sequence", "_pad_packed_sequence")
def packed(flow: Flow, op: Op) -> None:
    """Sequences of several lengths laid one after the other, and back: features are carried, all else is order."""
    why = f"{op.name} in {op.where} knows steps and sequences by number"
    x = op.args[0]
    rank = len(flow.shape(x))
    for ref in op.inputs:
        for axis in range(len(flow.shape(ref)) - (1 if ref.uid == x.uid else 0)):
            flow.freeze(ref, axis, why)
    features = flow.vector(x, rank - 1, why)
    for place, uid in enumerate(op.outputs):
        axes = flow.fixed(flow.shape(uid))
        if place == 0:
            axes[-1] = features.reshape((1,) * (len(axes) - 1) + (-1,))
        flow.define(uid, axes)
