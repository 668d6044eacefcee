"""DoReFa-Net: weights squashed by a tanh, activations cut to [0, 1], both on even levels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from torchpare.attach import FakeQuantize
from torchpare.config import QuantSpec
from torchpare.config.quantization import QuantType
from torchpare.errors import ConfigError
from torchpare.numerics.affine import Grid
from torchpare.numerics.gradients import dorefa_activation, dorefa_weight
from torchpare.quantization.base import Quantizer
from torchpare.quantization.fixed import FixedLevels
from torchpare.quantization.places import Place

__all__ = ["DoReFaQuantizer"]

_LEVELS = QuantSpec(Grid(8))


class DoReFaQuantizer(Quantizer):
    """Weights on ``2**bits`` levels from -1 to 1, activations on as many from 0 to 1; gradients are left alone.

    The weights of a layer come to have another size than before, so a net is trained with it, from the start or at
    length; norms after the layers help. Of an even number of levels none is zero: a pruned weight is made zero once
    more after the rounding.

    Zhou, Wu, Ni, Zhou, Wen, Zou, "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
    Gradients", 2016. For the arguments see :class:`~torchpare.quantization.Quantizer`.
    """

    folds: ClassVar[bool] = False
    defaults: ClassVar[Mapping[QuantType, QuantSpec]] = dict.fromkeys(("weight", "input", "output"), _LEVELS)  # type: ignore[arg-type]

    def check(self, place: Place) -> None:
        """The levels are the paper's."""
        refuse_schemes(place, type(self).__name__, "the levels are those of its formula")

    def weight_quantizer(self, place: Place) -> FakeQuantize:
        """The formula for weights."""
        return weight_levels(place.spec, place.name)

    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """The formula for activations."""
        return activation_levels(place.spec, place.name)


def weight_levels(spec: QuantSpec, name: str) -> FixedLevels:
    """The quantizer of a weight; see `torchpare.numerics.gradients.dorefa_weight`."""
    bits = spec.grid.bits
    compute, step = partial(dorefa_weight, bits=bits), partial(_weight_step, bits=bits)
    return FixedLevels(spec, name, "dorefa weight", compute, step, keeps_zero=False)


def activation_levels(spec: QuantSpec, name: str) -> FixedLevels:
    """The quantizer of an activation; see `torchpare.numerics.gradients.dorefa_activation`."""
    bits = spec.grid.bits
    compute, step = partial(dorefa_activation, bits=bits), partial(_activation_step, bits=bits)
    return FixedLevels(spec, name, "dorefa activation", compute, step, keeps_zero=True)


def refuse_schemes(place: Place, algorithm: str, why: str) -> None:
    """Refuse keys that say how a grid lies, to an algorithm that has none to lay.

    Raises:
        ConfigError: the entry has one.
    """
    entry = place.target.entry
    for key in ("quant_scheme", "granularity", "signed", "narrow_range", "observer"):
        if getattr(entry, key):
            raise ConfigError(f"{place.name}: {algorithm} takes no {key!r}, since {why}; leave it out")


def _weight_step(weight: Tensor, bits: int) -> Tensor:
    if bits > 1:
        return torch.full((), 1 / ((1 << bits) - 1), device=weight.device)
    size = weight.detach().float().abs().mean() if weight.numel() else torch.ones((), device=weight.device)
    return torch.where(size > 0, size, 1.0)


def _activation_step(x: Tensor, bits: int) -> Tensor:
    return torch.full((), 1 / ((1 << bits) - 1), device=x.device)
