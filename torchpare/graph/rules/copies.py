"""Operators that make copies of entries, and the sizes that code asks for when it does."""

from __future__ import annotations

import numpy as np

from torchpare.graph.flow import Flow, along
from torchpare.graph.labels import LabelArray
from torchpare.graph.program import Op
from torchpare.graph.rules.table import rule
from torchpare.graph.sizes import BinaryOp, Const, Expr

__all__ = ["requested_sizes"]


@rule("expand")
def expand(flow: Flow, op: Op) -> None:
    """Axes of size 1 are repeated: nothing in them can be removed. Given sizes of other axes must be followed."""
    x, result = op.args[0], op.outputs[0]
    shape, rank = flow.shape(result), len(flow.shape(result))
    lead = rank - len(flow.shape(x))
    arrays = flow.fixed(shape)
    asked = requested_sizes(op, result, rank)
    for axis, array in enumerate(flow.labels(x)):
        if flow.shape(x)[axis] == shape[axis + lead]:
            arrays[axis + lead] = array.reshape((1,) * lead + array.shape)
    for axis, expr in enumerate(asked):  # copies may go, as long as the code can ask for fewer
        repeated = axis < lead or flow.shape(x)[axis - lead] != shape[axis]
        if repeated and shape[axis] > 1 and op.call is not None and op.call.name in ("__setitem__", "take_along_dim"):
            arrays[axis] = along(flow.store.fresh(shape[axis]), axis, rank)  # as large as what it is written into
            continue
        if repeated and expr is not None and not isinstance(expr, Const) and shape[axis] > 1:
            arrays[axis] = along(flow.store.fresh(shape[axis]), axis, rank)
            flow.require_axis(arrays[axis], axis, expr, op, shape[axis])
    flow.define(result, arrays)
    if x.uid in flow.origin:
        parameter, axes = flow.origin[x.uid]
        flow.origin[result] = (parameter, (None,) * lead + axes)
    for axis, expr in enumerate(asked):
        if expr is not None and axis >= lead and flow.shape(x)[axis - lead] == shape[axis]:
            flow.require_axis(arrays[axis], axis, expr, op, shape[axis])


@rule("repeat")
def repeat(flow: Flow, op: Op) -> None:
    """Copies laid end to end: a channel goes in every copy."""
    x, result = op.args[0], op.outputs[0]
    shape, rank = flow.shape(result), len(flow.shape(result))
    lead = rank - len(flow.shape(x))
    numbers = op.call.sizes if op.call is not None and op.call.name in ("repeat", "tile") else None
    arrays = flow.fixed(shape)
    for axis in range(rank):
        old = flow.shape(x)[axis - lead] if axis >= lead else 1
        expr = numbers[axis] if numbers is not None and len(numbers) == rank else None
        if old > 1:
            array = flow.labels(x)[axis - lead]
            if array.shape[axis - lead] > 1:
                copies = [1] * len(flow.shape(x))
                copies[axis - lead] = op.args[1][axis]
                arrays[axis] = np.tile(array, copies).reshape((1,) * lead + tuple(np.multiply(array.shape, copies)))
            if expr is not None:
                flow.pin(expr, op.args[1][axis], op)
        elif expr is not None and not isinstance(expr, Const) and shape[axis] > 1:
            arrays[axis] = along(flow.store.fresh(shape[axis]), axis, rank)
            flow.require_axis(arrays[axis], axis, expr, op, shape[axis])
    flow.define(result, [_tied_over_copies(flow, op, array, axis, shape) for axis, array in enumerate(arrays)])


def _tied_over_copies(flow: Flow, op: Op, array: LabelArray, axis: int, shape: tuple[int, ...]) -> LabelArray:
    """Labels that depend on an axis that is repeated, made the same along it."""
    for other in range(len(shape)):
        if other != axis and array.shape[other] not in (1, shape[other]):
            first = np.take(array, [0], axis=other)
            flow.store.unify(first, array, f"the copies in {op.where}")
            array = first
    return array


def requested_sizes(op: Op, result: int, rank: int) -> list[Expr | None]:
    """The expression of each axis that the code asked for by number; None where it said -1 or nothing."""
    call = op.call
    own = call is not None and (call.results == (result,) or call.name == "normalize")
    if call is None or not own or call.sizes is None or len(call.sizes) != rank:
        return [None] * rank
    return [None if expr == Const(-1) or expr == BinaryOp("-", Const(0), Const(1)) else expr for expr in call.sizes]
