"""Root-mean-square norms over channels of which some go, made to compute what they did.

With S the sum of squares over ``n`` channels, an RMS norm is ``x / sqrt(S / n + eps) * weight``. A removed channel adds
nothing to S, so only ``n`` changes, and with ``eps' = eps * n / n'`` and ``weight' = weight * sqrt(n / n')`` over the
``n'`` that stay it is the same function (Zhang, Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, eq. 4).
A layer norm subtracts a mean, so that there is no such change for it.
"""

# ruff: noqa: SLF001 - registered parameters are read where nn.Module keeps them

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from torchpare.graph import Removal
from torchpare.graph.program import Op, Ref
from torchpare.layers.parameters import renewed
from torchpare.speedup.transaction import Transaction

__all__ = ["RmsNorm", "epsilons", "find_rms_norms", "new_weight", "scale_norms"]

_CASTS = frozenset({"aten._to_copy", "aten.clone", "aten.detach", "aten.alias"})


@dataclass(frozen=True)
class RmsNorm:
    """An RMS norm that loses channels, and can make up for it.

    Attributes:
        module: its path.
        eps: the name of the attribute that holds its epsilon.
        weight: the name of its weight in the module.
        offset: what the code adds to the weight: 1 where ``1 + weight`` scales, else 0.
        before, after: numbers of channels.
        mean: the place of the mean among the operators of the program.
    """

    module: str
    eps: str
    weight: str
    offset: int
    before: int
    after: int
    mean: int


def find_rms_norms(removal: Removal, model: nn.Module) -> list[RmsNorm]:
    """Every RMS norm over an axis that loses channels, as far as it can be told and made up for."""
    space = removal.space
    ops = space.program.ops
    users: dict[int, list[int]] = {}
    maker: dict[int, int] = {}
    for place, op in enumerate(ops):
        for ref in op.inputs:
            users.setdefault(ref.uid, []).append(place)
        for uid in op.outputs:
            maker.setdefault(uid, place)
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    for place, op in enumerate(ops):
        if op.name != "aten.mean" or op.module not in modules:
            continue
        norm = _norm(removal, modules[op.module], place, users, maker)
        if norm is not None:
            found.append(norm)
    return [norm for norm in found if _alone(norm, found)]


def _alone(norm: RmsNorm, found: list[RmsNorm]) -> bool:
    """Whether all uses of the norm's weight and epsilon ask for the same change."""
    return all(
        (other.before, other.after) == (norm.before, norm.after) for other in found if other.module == norm.module
    )


def _norm(
    removal: Removal, module: nn.Module, place: int, users: dict[int, list[int]], maker: dict[int, int]
) -> RmsNorm | None:
    """The norm around one mean: squares before it; epsilon, a root, the input and a weight after it."""
    space, ops = removal.space, removal.space.program.ops
    mean = ops[place]
    square = ops[maker[mean.args[0].uid]] if mean.args[0].uid in maker else None
    source = _squared(square) if square is not None else None
    if source is None or source.uid not in space.silent:
        return None
    rank = len(space.program.values[source.uid].shape)
    kept = removal.kept_axes(source.uid)[-1]
    rows = kept.reshape(-1, kept.shape[-1])
    over = mean.args[1] if len(mean.args) > 1 else None
    if over is None or [axis % rank for axis in np.atleast_1d(over)] != [rank - 1]:
        return None
    if rows.all() or not (rows == rows[0]).all():
        return None
    eps = _epsilon(_first_user(ops, users, mean.outputs[0]), module)
    normed = _scaled_input(ops, place, source)
    weight = _weight(removal, ops, users, maker, normed, mean.module) if normed is not None else None
    if eps is None or weight is None:
        return None
    before, after = space.program.values[source.uid].shape[-1], int(rows[0].sum())
    return RmsNorm(mean.module, eps, *weight, before, after, place)


def _squared(op: Op) -> Ref | None:
    """What an operator squares, if it does."""
    if op.name == "aten.pow" and op.args[1] == 2:
        return op.args[0]
    if op.name == "aten.mul" and isinstance(op.args[1], Ref) and op.args[0] == op.args[1]:
        return op.args[0]
    return op.args[0] if op.name == "aten.square" else None


def _only(ops: list[Op], users: dict[int, list[int]], uid: int) -> Op | None:
    places = users.get(uid, [])
    return ops[places[0]] if len(places) == 1 else None


def _first_user(ops: list[Op], users: dict[int, list[int]], uid: int) -> Op | None:
    """The one operator that reads a value; or the first, where it writes into it and the others read the result."""
    places = users.get(uid, [])
    if not places:
        return None
    first = ops[places[0]]
    return first if len(places) == 1 or uid in first.outputs else None


def _epsilon(add: Op | None, module: nn.Module) -> str | None:
    """The attribute of a module whose value is added, if there is just one."""
    if add is None or add.name.rstrip("_") != "aten.add":
        return None
    numbers = [argument for argument in add.args[:2] if isinstance(argument, float)]
    names = [  # torch's own norm hands its epsilon on in float32
        name
        for name, value in vars(module).items()
        if type(value) is float and (numbers == [value] or numbers == [float(np.float32(value))])
    ]
    return names[0] if len(names) == 1 else None


def _scaled_input(ops: list[Op], place: int, source: Ref) -> int | None:
    """The product of the input and the inverse root, as a value; None where the code goes another way."""
    follow = {ops[place].outputs[0]}
    for op in ops[place + 1 : place + 12]:
        touched = [ref.uid for ref in op.inputs if ref.uid in follow]
        if not touched:
            continue
        if op.name in ("aten.mul", "aten.div") and any(ref.uid == source.uid for ref in op.inputs):
            return op.outputs[0]
        if (
            op.name.rstrip("_") in ("aten.add", "aten.rsqrt", "aten.sqrt", "aten.reciprocal", "aten.pow")
            or op.name in _CASTS
        ):
            follow.update(op.outputs)
            continue
        return None
    return None


def _weight(
    removal: Removal, ops: list[Op], users: dict[int, list[int]], maker: dict[int, int], normed: int, module: str
) -> tuple[str, int] | None:
    """The parameter of the module that scales the result, and what the code adds to it."""
    values = removal.space.program.values
    while True:
        op = _only(ops, users, normed)
        if op is None:
            return None
        if op.name in _CASTS:
            normed = op.outputs[0]
            continue
        break
    if op.name.rstrip("_") != "aten.mul":
        return None
    other = [ref.uid for ref in op.inputs if ref.uid != normed]
    if len(other) != 1:
        return None
    uid, offset = other[0], 0
    while values[uid].kind == "temporary" and uid in maker:
        made = ops[maker[uid]]
        if made.name in _CASTS:
            uid = made.args[0].uid
        elif made.name == "aten.add" and made.args[1] in (1, 1.0) and not offset:
            uid, offset = made.args[0].uid, 1
        else:
            return None
    owner, _, name = values[uid].names[0].rpartition(".") if values[uid].kind == "parameter" else ("", "", "")
    uses = [place for place in users.get(uid, []) if ops[place].module != module]
    return (name, offset) if name and owner == module and not uses and len(values[uid].names) == 1 else None


def new_weight(weight: Tensor, norm: RmsNorm) -> Tensor:
    """The weight that makes up for the channels that are gone, in float64; of the size it had."""
    scale = (norm.before / norm.after) ** 0.5
    return (weight.detach().double() + norm.offset) * scale - norm.offset


def scale_norms(change: Transaction, norms: list[RmsNorm]) -> dict[str, Tensor]:
    """Give every norm its new weight.

    Returns:
        The new weights in float64, by qualified name: the proof computes with them, since the rounding of a product to
        float32 is not what it looks for.
    """
    modules = dict(change.model.named_modules(remove_duplicate=False))
    scaled: dict[str, Tensor] = {}
    for norm in norms:
        module = modules[norm.module]
        weight = module._parameters[norm.weight]
        name = f"{norm.module}.{norm.weight}" if norm.module else norm.weight
        if weight is None or name in scaled:
            continue
        scaled[name] = new_weight(weight, norm)
        parameter = renewed(weight, scaled[name].to(weight.dtype))
        change.set_tensor(module, norm.weight, parameter)
    return scaled


def epsilons(model: nn.Module, norms: list[RmsNorm]) -> dict[tuple[str, str], float]:
    """The new epsilons, by module path and attribute."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return {
        (norm.module, norm.eps): getattr(modules[norm.module], norm.eps) * (norm.before / norm.after) for norm in norms
    }
