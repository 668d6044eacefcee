"""Where a scale that is worked out of a size can be made up for.

``F.scaled_dot_product_attention`` divides scores by the root of a head's width ``d``, and so does code that writes
``q @ k.mT / math.sqrt(d)``. With ``d'`` left of it the scores would grow, unless the queries are multiplied by
``sqrt(d' / d)``. That factor can go into the parameters that make the queries, if everything between them and the scale
only moves entries around and multiplies them by constants: rotary embeddings do, a norm without scale does not; and if
nothing else reads what they make.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from torchpare.graph.flow import Flow
from torchpare.graph.program import Op, Ref, Scale

__all__ = ["Sink", "find_scale_makers", "overlap"]

_MOVES = frozenset(
    f"aten.{name}"
    for name in (
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze"),
        *("slice", "select", "split", "split_with_sizes", "unbind", "expand", "cat", "stack", "flip", "alias"),
    )
)
_WHOLE = frozenset(
    f"aten.{name}"
    for name in (
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "clone"),
        *("permute", "transpose", "t", "unsqueeze", "squeeze"),
    )
)
_SAME = frozenset(f"aten.{name}" for name in ("clone", "_to_copy", "detach", "neg", "contiguous", "native_dropout"))
_SCALED = frozenset({"aten.mul", "aten.div"})
_SUMS = frozenset({"aten.add", "aten.sub"})
_LINEAR = {"aten.addmm": 2, "aten.mm": 1, "aten.linear": 1, "aten.bmm": 1}


@dataclass(frozen=True)
class Sink:
    """A parameter that makes queries: its uid, the axis along which they lie, and which entries of it are queries."""

    uid: int
    axis: int
    entries: NDArray[np.bool_]
    user: int
    """The place of the operator by which it makes them, among those of the program."""


def find_scale_makers(flow: Flow) -> list[tuple[Scale, list[Sink] | None]]:
    """Each scale, with what makes the values that it scales, where a factor can go into that; None where it cannot.

    A parameter that makes something else in another place too (a norm shared by queries and keys) is not one; nor is
    one that makes what is scaled otherwise in another place.
    """
    scales = list(dict.fromkeys(flow.program.scales))
    found = [_find_sinks(flow, scale.uid, {other.uid for other in scales} - {scale.uid}) for scale in scales]
    users: dict[int, set[int]] = {}
    for place, op in enumerate(flow.program.ops):
        for ref in op.inputs:
            if flow.shows_parameter(ref) and not all(flow.shows_parameter(out) for out in op.outputs):
                users.setdefault(flow.origin[ref.uid][0], set()).add(place)
    while True:
        makers = {(sink.uid, sink.user) for sinks in found for sink in sinks or ()}
        shared = [
            any((sink.uid, place) not in makers for sink in sinks or () for place in users.get(sink.uid, ()))
            or any(
                (scale.value, scale.power) != (other.value, other.power) and overlap(sinks, others)
                for other, others in zip(scales, found, strict=True)
            )
            for scale, sinks in zip(scales, found, strict=True)
        ]
        if not any(shared):
            return list(zip(scales, found, strict=True))
        found = [None if other else sinks for sinks, other in zip(found, shared, strict=True)]


def overlap(one: Sequence[Sink] | None, other: Sequence[Sink] | None) -> bool:
    """Whether a factor on what some parameters make is one on what others make too."""
    return any(
        a.uid == b.uid and (a.axis != b.axis or bool((a.entries & b.entries).any()))
        for a in one or ()
        for b in other or ()
    )


def _find_sinks(flow: Flow, scaled: int, others: Collection[int]) -> list[Sink] | None:
    """The parameters that a factor on a value can go into; None where there are no such, or another scale lies between.

    Of scores, these are the parameters that make the queries.
    """
    maker = {out: op for op in flow.program.ops for out in op.outputs}
    start, between = _queries_of(flow, scaled, maker)
    path: set[int] = set()
    ends: list[tuple[Op, list[tuple[Ref, int]]]] = []
    pending = [start]
    while pending:
        value = pending.pop()
        if value in path:
            continue
        path.add(value)
        op = maker.get(value)
        if op is None or value in others:
            return None
        parameters = _parameters_of(flow, op)
        if parameters is not None:
            ends.append((op, parameters))
            continue
        before = _behind(flow, op)
        if before is None:
            return None
        pending.extend(before)
    if between & set(others):
        return None
    sinks = _entries(flow, start, path, ends)
    made: dict[int, Tensor] = {}
    for sink in sinks or ():
        op = flow.program.ops[sink.user]
        shape = [1] * len(flow.shape(op.outputs[0]))
        shape[_axis_made(op)] = -1
        made[op.outputs[0]] = torch.from_numpy(sink.entries).float().view(shape)
    return sinks if sinks is not None and _read_nowhere_else(flow, made, path, between | {scaled}) else None


def _queries_of(flow: Flow, scaled: int, maker: Mapping[int, Op]) -> tuple[int, set[int]]:
    """The left factor of the product that a value is, and what lies between; the value itself, where it is none."""
    value, between = scaled, set[int]()
    while (op := maker.get(value)) is not None:
        between.add(value)
        if op.name in ("aten.bmm", "aten.mm") and not any(flow.shows_parameter(ref) for ref in op.inputs):
            return op.inputs[0].uid, between
        if op.name not in _WHOLE:
            break
        value = op.inputs[0].uid
    return scaled, set()


def _read_nowhere_else(flow: Flow, made: Mapping[int, Tensor], path: set[int], between: set[int]) -> bool:
    """Whether entries that a factor changes reach the scale, and nothing else.

    Args:
        flow: the labelled program.
        made: by uid of what the parameters make, with ones where that is meant.
        path: values from there to what is multiplied.
        between: values from the product with it to the scale.
    """
    changed: dict[int, Tensor] = {}
    scales = 0
    for op in flow.program.ops:
        if (out := op.outputs[0] if op.outputs else -1) in made:
            changed[out] = made[out].expand(flow.shape(out))
            continue
        read = [ref.uid for ref in op.inputs if ref.uid in changed and bool(changed[ref.uid].any())]
        if out in between:
            changed[out] = torch.ones(()).expand(flow.shape(out))
        elif set(read) & between:
            scales += 1
            if scales > 1:
                return False
        elif out in path or (read and _moves(flow, op)):
            _replay(flow, op, path | set(read), changed)
        elif read:
            return False
    return not any(bool(changed[uid].any()) for uid in flow.program.outputs if uid in changed)


def _parameters_of(  # noqa: PLR0911 - a line for each kind
    flow: Flow, op: Op
) -> list[tuple[Ref, int]] | None:
    """The parameters (with their axis, as the operator sees them) by which an operator makes a value, if it does."""
    if op.name in _LINEAR:
        weight = op.args[_LINEAR[op.name]]
        if not flow.shows_parameter(weight):
            return None
        bias = {"aten.addmm": op.args[0], "aten.linear": op.args[2] if len(op.args) > 2 else None}.get(op.name)
        axis = 0 if op.name == "aten.linear" else len(flow.shape(weight)) - 1
        found = [(weight, axis)]
        if isinstance(bias, Ref):
            if not flow.shows_parameter(bias) or len(flow.shape(bias)) != 1:
                return None
            found.append((bias, 0))
        return found
    if op.name == "aten.convolution" and not op.args[6]:
        own = [ref for ref in op.args[1:3] if isinstance(ref, Ref)]
        return [(ref, 0) for ref in own] if all(map(flow.shows_parameter, own)) else None
    if op.name == "aten.embedding" and flow.shows_parameter(op.args[0]):
        return [(op.args[0], 1)]
    if op.name == "aten.native_layer_norm" and len(op.args[1]) == 1 and isinstance(op.args[2], Ref):
        return [(ref, 0) for ref in op.args[2:4] if isinstance(ref, Ref)]
    if op.name == "aten.mul":
        values = flow.program.values  # the plain parameter: a factor on 1 + weight is none on the weight
        own = [ref for ref in op.inputs if values[ref.uid].kind == "parameter" and len(flow.shape(ref)) == 1]
        if len(own) == 1 and flow.shape(own[0])[0] == flow.shape(op.outputs[0])[-1]:
            return [(own[0], 0)]
    return None


def _axis_made(op: Op) -> int:
    """Along which axis of its result an operator lays what the rows of a parameter make."""
    return 1 if op.name == "aten.convolution" else -1


def _behind(flow: Flow, op: Op) -> list[int] | None:
    """The values to which a factor on what an operator makes can be moved; None where it cannot."""
    refs = [ref.uid for ref in op.inputs]
    if _moves(flow, op) or op.name in _SAME:
        return refs if op.name in ("aten.cat", "aten.stack") else refs[:1]
    if op.name in _SCALED:
        varying = [uid for uid in refs if flow.program.values[uid].kind == "temporary" and not _is_constant(flow, uid)]
        dividend = op.name == "aten.mul" or varying[:1] == refs[:1]
        return varying if len(varying) == 1 and dividend else None
    if op.name in _SUMS:
        return refs if len(refs) == 2 else None
    return None


def _moves(flow: Flow, op: Op) -> bool:
    """Whether an operator only moves entries around; by places that are written in the code, if by an index."""
    if op.name == "aten.index":
        places = [flow.program.constants.get(ref.uid) for ref in op.inputs[1:]]
        return all(place is not None and not place.is_meta for place in places)
    return op.name in _MOVES


def _is_constant(flow: Flow, uid: int, depth: int = 0) -> bool:
    """Whether a value comes from no input and no parameter: the tables of a rotary embedding."""
    value = flow.program.values[uid]
    if value.kind != "temporary":
        return value.kind in ("buffer", "constant")
    op = next((op for op in flow.program.ops if uid in op.outputs), None)
    if op is None or depth > 16:
        return False
    return all(_is_constant(flow, ref.uid, depth + 1) or _is_position(flow, ref.uid) for ref in op.inputs)


def _is_position(flow: Flow, uid: int) -> bool:
    """Whether a value is an input that only tells positions: nothing labelled comes from it."""
    return flow.program.values[uid].kind == "input" and not any(array.any() for array in flow.labels(uid))


def _entries(
    flow: Flow, uid: int, path: set[int], ends: Sequence[tuple[Op, list[tuple[Ref, int]]]]
) -> list[Sink] | None:
    """Which entries of the parameters reach the value: the recorded operators are replayed on ones, and asked back."""
    made = {id(op): torch.ones(flow.shape(op.outputs[0]), requires_grad=True) for op, _ in ends}
    known: dict[int, Tensor] = {op.outputs[0]: made[id(op)] for op, _ in ends}
    try:
        with torch.enable_grad():
            for op in flow.program.ops:
                if id(op) not in made and any(out in path for out in op.outputs):
                    _replay(flow, op, path, known)
            known[uid].sum().backward()
    except (RuntimeError, KeyError, TypeError, IndexError):
        return None  # an operator that wants more than this knows: the width stays as it is
    places = {id(op): place for place, op in enumerate(flow.program.ops)}
    sinks = []
    for op, parameters in ends:
        gradient = made[id(op)].grad
        if gradient is None:
            continue
        reached = (gradient != 0).movedim(_axis_made(op), 0).flatten(1).any(dim=1).numpy()
        for ref, axis in parameters:
            parameter, axes = flow.origin[ref.uid]
            own = axes[axis]
            if own is None:
                return None
            sinks.append(Sink(parameter, own, reached, places[id(op)]))
    return sinks


def _replay(flow: Flow, op: Op, path: set[int], known: dict[int, Tensor]) -> None:
    if _moves(flow, op):

        def value(ref: Ref) -> Tensor:
            if ref.uid in known:
                return known[ref.uid]
            place = flow.program.constants.get(ref.uid) if op.name == "aten.index" else None
            return torch.zeros(flow.shape(ref)) if place is None else place

        args, kwargs = pytree.tree_map_only(Ref, value, (list(op.args), dict(op.kwargs)))
        if op.name in ("aten.view", "aten._unsafe_view", "aten._reshape_alias"):
            result: Any = args[0].reshape(args[1])
        else:
            result = op.target(*args, **kwargs)
        results = result if isinstance(result, (tuple, list)) else [result]
        known.update(zip(op.outputs, results, strict=True))
        return
    operands = [known[ref.uid] for ref in op.inputs if ref.uid in path and ref.uid in known]
    total = operands[0].expand(flow.shape(op.outputs[0]))
    for other in operands[1:]:
        total = total + other
    known[op.outputs[0]] = total
