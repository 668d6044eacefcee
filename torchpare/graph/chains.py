"""Which layer alone feeds which, with nothing between them that minds the scale of a channel.

A ReLU, a pooling and a flatten are positively homogeneous: ``f(s x) = s f(x)`` for ``s > 0``. Where only those lie
between two layers, dividing a channel of the first and multiplying what the second makes of it changes nothing. Found
in a recorded run, so it does not matter how the model's code is written; what is not recognised ends the search.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torchpare.graph.program import Op, Program, Ref

__all__ = ["Chain", "chains"]

_NORM = "aten.native_batch_norm"
_POINTWISE = frozenset(
    f"aten.{name}" for name in ("relu", "relu_", "leaky_relu", "leaky_relu_", "_prelu_kernel", "clone", "alias")
)
_POOLS = frozenset(
    f"aten.{name}" for name in (
        "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d", "mean",
    )
)  # fmt: skip
_VIEWS = frozenset(f"aten.{name}" for name in ("view", "_unsafe_view", "reshape"))


@dataclass(frozen=True)
class Chain:
    """A layer that alone feeds another.

    Attributes:
        first: name of the parameter that makes the channels: a convolution's or linear layer's weight.
        bias: name of the bias beside it; empty where there is none.
        norm: name of the weight of a batch norm between them; empty where there is none.
        norm_bias: name of that norm's bias.
        norm_variance: name of that norm's running variance.
        norm_epsilon: what that norm adds to it.
        second: name of the weight that reads the channels.
        groups: of the reading convolution; 1 for a linear layer.
        transposed: whether the reading convolution is.
        first_groups: of the making convolution.
        first_transposed: whether the making convolution is.
        repeat: how many columns in a row of the second weight read each channel: more than one after a flatten.
    """

    first: str
    bias: str
    second: str
    norm: str = ""
    norm_bias: str = ""
    norm_variance: str = ""
    norm_epsilon: float = 0.0
    groups: int = 1
    transposed: bool = False
    first_groups: int = 1
    first_transposed: bool = False
    repeat: int = 1


@dataclass(frozen=True)
class _Layer:
    """An operator that multiplies with a parameter."""

    at: int
    weight: str
    bias: str
    given: int
    """The uid of what it reads."""
    linear: bool = False
    groups: int = 1
    transposed: bool = False


def chains(program: Program) -> list[Chain]:
    """Every pair of layers of which the second reads the first's channels and nothing else does, in the model's order.

    A parameter that is used twice, or known under two names, takes no part.
    """
    readers: dict[int, list[int]] = defaultdict(list)
    for at, op in enumerate(program.ops):
        for uid in dict.fromkeys(ref.uid for ref in op.inputs):
            readers[uid].append(at)
    layers = {layer.at: layer for layer in _layers(program, readers)}
    found = (_followed(program, readers, layers, layer) for layer in layers.values())
    return [chain for chain in found if chain is not None]


def _layers(program: Program, readers: Mapping[int, list[int]]) -> Iterator[_Layer]:
    def sole(argument: Any) -> str:
        """The name of a parameter that is used here alone; empty if it is something else."""
        if not isinstance(argument, Ref):
            return ""
        value = program.values[argument.uid]
        alone = value.kind == "parameter" and len(value.names) == 1 and len(readers[argument.uid]) == 1
        return value.names[0] if alone else ""

    turned = {
        op.outputs[0]: sole(op.args[0])
        for op in program.ops
        if op.name == "aten.t" and len(readers[op.outputs[0]]) == 1
    }
    for at, op in enumerate(program.ops):
        if op.name == "aten.convolution":
            given, weight, bias = op.args[:3]
            layer = _Layer(at, sole(weight), sole(bias), given.uid, False, int(op.args[8]), bool(op.args[6]))
        elif op.name in ("aten.addmm", "aten.mm"):
            bias, given, weight = op.args if op.name == "aten.addmm" else (None, *op.args)
            if not (isinstance(given, Ref) and isinstance(weight, Ref)) or op.kwargs:
                continue
            layer = _Layer(at, turned.get(weight.uid, ""), sole(bias), given.uid, linear=True)
        else:
            continue
        if layer.weight and (bias is None or layer.bias):
            yield layer


def _followed(
    program: Program, readers: Mapping[int, list[int]], layers: Mapping[int, _Layer], layer: _Layer
) -> Chain | None:
    uid, axis, repeat = program.ops[layer.at].outputs[0], 1, 1
    norm: dict[str, Any] = {}
    at: int | None = layer.at
    while (at := _sole_reader(program, readers, uid, at)) is not None:
        op = program.ops[at]
        if at in layers:
            second, rank = layers[at], len(program.values[uid].shape)
            reads = second.given == uid and (axis == rank - 1 if second.linear else axis == 1 and repeat == 1)
            return _chain(layer, second, repeat, norm) if reads else None
        if op.inputs[0].uid != uid:
            return None
        moved: tuple[int, int] | None = (axis, repeat)
        if op.name == _NORM and not norm and repeat == 1:
            norm = _norm(program, op, readers)
            moved = moved if norm else None
        else:
            moved = _behind(program, op, axis, repeat)
        if moved is None:
            return None
        (axis, repeat), uid = moved, op.outputs[0]
    return None


def _sole_reader(program: Program, readers: Mapping[int, list[int]], uid: int, after: int) -> int | None:
    """The operator that reads a value next, if no other ever does; one that writes in place makes another value."""
    later = [at for at in readers[uid] if at > after]
    if not later or uid in program.outputs or (len(later) > 1 and uid not in program.ops[later[0]].outputs):
        return None
    return later[0]


def _behind(program: Program, op: Op, axis: int, repeat: int) -> tuple[int, int] | None:
    """The axis of the channels after an operator, and how many places each has there; None if they are no longer."""
    shape = program.values[op.inputs[0].uid].shape
    if op.name in _VIEWS:
        moved = _seen_as(shape, program.values[op.outputs[0]].shape, axis)
        return None if moved is None else (moved[0], repeat * moved[1])
    if op.name in _POINTWISE or (op.name in _POOLS and repeat == 1 and _pools_behind(op, axis, len(shape))):
        return axis, repeat
    return None


def _pools_behind(op: Op, axis: int, rank: int) -> bool:
    """Whether a pooling leaves channels alone: a mean over axes after theirs, or a pool, which is over the last."""
    if op.name != "aten.mean":
        return axis == 1 and rank == (5 if "3d" in op.name else 4)
    given = op.args[1] if len(op.args) > 1 else None
    return isinstance(given, list | tuple) and bool(given) and all(dim % rank > axis for dim in given)


def _norm(program: Program, op: Op, readers: Mapping[int, list[int]]) -> dict[str, Any]:
    """The names of a batch norm's parameters; empty where it has none of its own, or no running statistics."""
    if not all(isinstance(argument, Ref) for argument in op.args[:5]):
        return {}
    weight, bias, _, variance = (program.values[argument.uid] for argument in op.args[1:5])
    for value in (weight, bias):
        if value.kind != "parameter" or len(value.names) != 1 or len(readers[value.uid]) != 1:
            return {}
    if not variance.names:
        return {}
    return {
        "norm": weight.names[0],
        "norm_bias": bias.names[0],
        "norm_variance": variance.names[0],
        "norm_epsilon": float(op.args[7]),
    }


def _chain(first: _Layer, second: _Layer, repeat: int, norm: dict[str, Any]) -> Chain:
    return Chain(
        first.weight, first.bias, second.weight, groups=second.groups, transposed=second.transposed,
        first_groups=first.groups, first_transposed=first.transposed, repeat=repeat, **norm,
    )  # fmt: skip


def _seen_as(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> tuple[int, int] | None:
    """The axis of the channels in another view, and how many places each then takes in a row; None if they scatter."""
    ahead, behind = math.prod(before[:axis]), math.prod(before[axis + 1 :])
    for place, size in enumerate(after):
        if math.prod(after[:place]) != ahead:
            continue
        if size == before[axis]:
            return place, 1
        if size == before[axis] * behind and math.prod(after[place + 1 :]) == 1:
            return place, behind
    return None
