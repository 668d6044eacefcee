"""Quantizers step aside while a model is made smaller, and come back with the channels that are left."""

# ruff: noqa: SLF001 - buffers and parameters are cut where nn.Module keeps them

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from torchpare.attach import (
    FakeQuantize,
    attach_activation_quantizer,
    attach_weight_quantizer,
    detach_quantizers,
    quantizers_of,
)
from torchpare.errors import ShrinkError
from torchpare.layers.parameters import renewed
from torchpare.speedup.shrink_plan import Cut
from torchpare.speedup.transaction import Transaction

__all__ = ["Lifted", "lift_quantizers", "put_back"]


@dataclass(frozen=True)
class Lifted:
    """A quantizer that hung on a layer."""

    path: str
    layer: nn.Module
    kind: str
    """A parameter's name, "input" or "output"."""
    quantizer: FakeQuantize
    fold: nn.Module | None


def lift_quantizers(change: Transaction) -> list[Lifted]:
    """Take all quantizers off; what is proved about the shrunk model is proved in real numbers."""
    lifted = [
        Lifted(path, layer, kind, quantizer, layer.torchpare_fold[0] if layer.torchpare_fold else None)
        for path, layer, kind, quantizer in quantizers_of(change.model)
    ]
    if lifted:
        change.remember_layers()
        detach_quantizers(change.model, bake=False)
    return lifted


def put_back(change: Transaction, lifted: list[Lifted], cuts: Mapping[str, Cut]) -> None:
    """Hang the quantizers where they hung; scales of single channels go where their channels went.

    Raises:
        ShrinkError: a fixed scale of a group of weights has lost some of them, so that nobody knows what it stands for.
    """
    done: set[int] = set()
    for own in lifted:
        if own.kind in ("input", "output"):
            attach_activation_quantizer(own.layer, cast(Literal["input", "output"], own.kind), own.quantizer)
            continue
        cut = cuts.get(f"{own.path}.{own.kind}" if own.path else own.kind)
        if cut is not None and cut.changes and id(own.quantizer) not in done:
            _cut(change, own, cut)
        done.add(id(own.quantizer))
        attach_weight_quantizer(own.layer, own.kind, own.quantizer, own.fold)


def _cut(change: Transaction, own: Lifted, cut: Cut) -> None:
    quantizer = own.quantizer
    if quantizer.spec.granularity == "group":
        _check_groups(own, cut)
    for name, old in [*quantizer._buffers.items(), *quantizer._parameters.items()]:
        if old is None or old.dim() == 0 or name not in ("scale", "zero_point", "low", "high"):
            continue
        if quantizer.spec.granularity == "group":
            rows = cut.indices(0) or []
            change.set_tensor(quantizer, name, _like(old, lambda tensor, rows=rows: tensor[rows]))
        elif old.dim() == len(cut.before):
            change.set_tensor(quantizer, name, _like(old, cut.apply_to_mask))


def _check_groups(own: Lifted, cut: Cut) -> None:
    size = own.quantizer.spec.group_size
    inputs = cut.before[1:] != cut.after[1:]
    row = 1
    for length in cut.after[1:]:
        row *= length
    where = f"{own.path}.{own.kind}"
    if row % size:
        raise ShrinkError(
            f"{where} is quantized in groups of {size}, and would be left with {row} weights in each output channel, "
            f"which do not divide into such groups: prune in multiples (round_to), or quantize after shrinking"
        )
    if (inputs and not own.quantizer.follows) or cut.indices(0) is None:
        raise ShrinkError(
            f"{where} has fixed scales for groups of {size} weights, some of which would go: quantize after shrinking"
        )


def _like(old: Tensor, cut: Any) -> Tensor:
    new = cut(old.detach())
    return renewed(old, new, cut) if isinstance(old, nn.Parameter) else new
