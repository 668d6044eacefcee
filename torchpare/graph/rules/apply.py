"""Carrying labels through a whole program, operator by operator."""

from __future__ import annotations

import logging
from itertools import combinations

import numpy as np

from torchpare.graph.attention_scale import find_scale_makers, overlap
from torchpare.graph.flow import Flow, along
from torchpare.graph.program import Op, Program, Ref
from torchpare.graph.rules.elementwise import pointwise
from torchpare.graph.rules.siblings import follow_siblings
from torchpare.graph.rules.table import find_rule
from torchpare.graph.sizes import Const

__all__ = ["apply_rules"]

_log = logging.getLogger("torchpare")


def apply_rules(program: Program, *, free_literals: bool = False) -> Flow:
    """Label every value of ``program``. The model's inputs and outputs are fixed: nobody outside can follow."""
    flow = Flow(program, free_literals=free_literals)
    _label_grouped_weights(flow)
    for op in program.ops:
        function = find_rule(op.name) or (pointwise if op.pointwise else _unknown)
        function(flow, op)
    for uid in list(flow.turned):  # nothing has read these
        flow.labels(uid)
    _freeze_unread_entries(flow)
    follow_siblings(flow)
    _mind_scales(flow)
    for uid in program.outputs:
        for axis in range(len(flow.shape(uid))):
            flow.freeze(uid, axis, "it is an output of the model")
    for value in program.values:
        if value.uid not in flow.axes:  # never reached: nothing is known about it, so it stays
            flow.axes[value.uid] = flow.fixed(value.shape)
    return flow


def _freeze_unread_entries(flow: Flow) -> None:
    """Keep what no slice of a table reads: rows for positions that longer inputs would look up."""
    readers: dict[int, list[Op]] = {}
    for op in flow.program.ops:
        for ref in op.inputs:
            readers.setdefault(ref.uid, []).append(op)
    for value in flow.program.values:
        if value.kind not in ("parameter", "buffer"):
            continue
        own = readers.get(value.uid)
        if own is None:
            continue  # never reached: nothing is known about it, so all of it stays
        for axis, size in enumerate(value.shape):
            covered = np.zeros(size, dtype=bool)
            for op in own:
                covered[_read_piece(op, axis, len(value.shape))] = True
            array = flow.labels(value.uid)[axis]
            if not covered.all() and array.shape[axis] > 1:
                unread = np.take(array, np.flatnonzero(~covered), axis=axis)
                flow.store.freeze(unread, f"the example inputs did not reach these entries of '{value.names[0]}'")


def _read_piece(op: Op, axis: int, rank: int) -> slice:
    """Which entries of an axis of its first input an operator reads: all, unless it is a slice along it."""
    if op.name != "aten.slice" or (op.args[1] if len(op.args) > 1 else 0) % rank != axis:
        return slice(None)
    return slice(*(*op.args[2:], *(None, None, None)[len(op.args[2:]) :]))


def _mind_scales(flow: Flow) -> None:
    """Values multiplied with a power of a size: find who can make up for another one, or keep that size."""
    found = find_scale_makers(flow)
    for (one, its), (other, others) in combinations(found, 2):
        if one.size != other.size and overlap(its, others):  # a parameter can make up for one factor alone
            flow.comparisons[one.size, other.size, True] = other.site
    for scale, makers in found:
        if makers is not None:
            flow.scale_makers.append((scale, makers))
        else:  # it is a number that the model computes from the width of a head
            flow.comparisons[scale.size, Const(scale.value), True] = scale.site


def _unknown(flow: Flow, op: Op) -> None:
    if any(flow.shape(ref) for ref in op.inputs) and op.name not in flow.unknown:
        flow.unknown[op.name] = op.where
        _log.info("torchpare has no rule for %s: the channels that flow through it in %s stay", op.name, op.where)
    flow.freeze_all(op, f"torchpare has no rule for {op.name}, used in {op.where}")


def _label_grouped_weights(flow: Flow) -> None:
    """Give the weights of grouped convolutions input labels that depend on the group, before any rule ties them."""
    for op in flow.program.ops:
        if op.name != "aten.convolution" or op.args[8] == 1 or not isinstance(op.args[1], Ref):
            continue
        uid, groups, transposed = op.args[1].uid, op.args[8], op.args[6]
        value = flow.program.values[uid]
        if value.kind != "parameter" or uid in flow.axes:
            continue
        arrays = flow.labels(uid)
        rank, (rows, columns) = len(value.shape), value.shape[:2]
        if columns > 1:
            per_group = flow.store.fresh((groups, columns))
            arrays[1] = np.repeat(per_group, rows // groups, axis=0).reshape((rows, columns) + (1,) * (rank - 2))
        if transposed and rows == groups:  # one input a group: its row is the group itself
            arrays[0] = along(flow.store.fresh(rows), 0, rank)
