"""Quantizers in the record of a checkpoint: what hangs where, in words from which it is made again.

Nothing of the words is believed: kinds are looked up in a table, places must be there in the model, and every number
has to make a grid. What the quantizers know (ranges, scales, steps) lies beside the record as tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from torchpare.attach import FakeQuantize, quantizers_of
from torchpare.attach.reading import ACTIVATIONS, QUANTIZER
from torchpare.config import QuantSpec
from torchpare.config.quantization import Granularity, Observer
from torchpare.errors import CheckpointError, QuantizationError
from torchpare.numerics.affine import Grid
from torchpare.quantization import post_training
from torchpare.quantization.bnn import activation_signs, weight_signs
from torchpare.quantization.dorefa import activation_levels, weight_levels
from torchpare.quantization.learned import LearnedBound, LearnedGrid, LearnedStep

__all__ = ["Hung", "SavedQuantizers", "check_numbers", "child_of", "described", "read_quantizers"]

_STRICT = ConfigDict(strict=True, frozen=True, extra="forbid")


class Hung(BaseModel):
    """One quantizer at one place."""

    model_config = _STRICT

    layer: str
    of: str
    """The parameter's name, "input" or "output"."""
    kind: str
    name: str
    bits: int
    signed: bool
    symmetric: bool
    narrow: bool
    granularity: Granularity
    group_size: int
    observer: Observer
    percentile: float
    start_step: int
    axis: int
    follows: bool
    fold: str | None = None
    """The batch norm that is folded into the weight."""
    same_as: int | None = None
    """The earlier of the list with which it is one object, as of a weight that layers share."""
    joined_with: list[int] = []
    """The others of the list with which it has one grid."""

    def made(self) -> FakeQuantize:
        """The quantizer, which knows no range yet.

        Raises:
            CheckpointError: there is no such kind, or no such grid.
        """
        if self.kind not in _MAKERS:
            raise CheckpointError(f"the quantizer of {self.name} is of the kind {self.kind!r}; known are "
                                  f"{', '.join(map(repr, _MAKERS))}")  # fmt: skip
        try:
            grid = Grid(self.bits, signed=self.signed, symmetric=self.symmetric, narrow=self.narrow)
        except QuantizationError as error:
            raise CheckpointError(f"the quantizer of {self.name}: {error}") from error
        made = _MAKERS[self.kind](self, QuantSpec(
            grid, self.granularity, self.group_size, self.observer, self.percentile, self.start_step
        ))  # fmt: skip
        made.of_data = self.of in ACTIVATIONS
        return made


class SavedQuantizers(BaseModel):
    """All that hangs on a model, in its order."""

    model_config = _STRICT

    version: Literal[1]
    hung: list[Hung]


_MAKERS: dict[str, Callable[[Hung, QuantSpec], FakeQuantize]] = {
    "observed": lambda own, spec: FakeQuantize(spec, own.name, axis=own.axis, follows=own.follows),
    "calibrated": lambda own, spec: post_training.Observer(spec, own.name, axis=own.axis),
    "learned step": lambda own, spec: LearnedStep(spec, own.name, axis=own.axis),
    "learned grid": lambda own, spec: LearnedGrid(spec, own.name),
    "learned bound": lambda own, spec: LearnedBound(spec, own.name),
    "dorefa weight": lambda own, spec: weight_levels(spec, own.name),
    "dorefa activation": lambda own, spec: activation_levels(spec, own.name),
    "signs": lambda own, spec: weight_signs(spec, own.name, own.axis, scaled=False),
    "scaled signs": lambda own, spec: weight_signs(spec, own.name, own.axis, scaled=True),
    "signs of data": lambda own, spec: activation_signs(spec, own.name),
}


def child_of(of: str) -> str:
    """The name of the layer's child that quantizes this of it."""
    return ACTIVATIONS.get(of, of + QUANTIZER)


def described(model: nn.Module) -> dict[str, Any] | None:
    """The quantizers of a model in words; None where it has none.

    Raises:
        CheckpointError: one is of a kind that files do not know, or knows what is no number, or the norm that is folded
            into its weight is not in the model any more.
    """
    places = list(quantizers_of(model))
    if not places:
        return None
    paths = {id(module): path for path, module in model.named_modules()}
    first: dict[int, int] = {}
    hung = []
    for at, (path, layer, of, own) in enumerate(places):
        if own.kind not in _MAKERS:
            raise CheckpointError(f"{own.name}: a {type(own).__name__} is no quantizer that a checkpoint can name")
        spec, earlier = own.spec, first.setdefault(id(own), at)
        check_numbers(own, f"{type(model).__name__} cannot be saved")
        fold = layer.torchpare_fold[0] if layer.torchpare_fold and of == "weight" else None
        if fold is not None and id(fold) not in paths:
            raise CheckpointError(f"{own.name} is quantized as a batch norm leaves it that is not in the model any "
                                  "more: put the norm back, or quantize the model anew")  # fmt: skip
        hung.append(Hung(
            layer=path, of=of, kind=own.kind, name=own.name, **vars(spec.grid), granularity=spec.granularity,
            group_size=spec.group_size, observer=spec.observer, percentile=float(spec.percentile),
            start_step=spec.start_step, axis=own.axis, follows=own.may_follow,
            fold=None if fold is None else paths[id(fold)], same_as=None if earlier == at else earlier,
            joined_with=[other for other, (*_, one) in enumerate(places) if one in own.joined],
        ))  # fmt: skip
    return SavedQuantizers(version=1, hung=hung).model_dump(exclude_defaults=True)


def check_numbers(quantizer: FakeQuantize, where: str) -> None:
    """See that what a quantizer knows makes a grid.

    Raises:
        CheckpointError: something is NaN or infinite, a step is not above zero, a zero point is none of the integers.
    """
    if quantizer.zero_point.is_meta:
        return  # which has no numbers, and is refused for that
    state = {**dict(quantizer.named_buffers()), **dict(quantizer.named_parameters())}
    grid, scale, zero = quantizer.spec.grid, quantizer._buffers.get("scale"), quantizer.zero_point  # noqa: SLF001
    wrong = [name for name, own in state.items() if not bool(own.isfinite().all())]
    # Of a step that is learnt the size counts.
    if scale is not None and not wrong and bool((scale <= 0).any()):
        wrong.append("scale")
    if bool(((zero < grid.qmin) | (zero > grid.qmax)).any()):
        wrong.append("zero_point")
    if wrong:
        raise CheckpointError(f"{where}: of the quantizer of {quantizer.name} makes no grid: {', '.join(wrong)}")


def read_quantizers(words: Any, source: str) -> SavedQuantizers:
    """Check the form of what a file says of quantizers.

    Raises:
        CheckpointError: a key too many or too few, a version that is not known, a value of the wrong type.
    """
    try:
        return SavedQuantizers.model_validate(words)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("quantizers", *first["loc"])))
        raise CheckpointError(f"{source}: its record is not as it should be, at {where!r}: {first['msg']}") from error
