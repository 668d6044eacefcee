"""Binarized neural networks: weights and activations are signs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach import FakeQuantize
from torchpare.config import QuantSpec
from torchpare.config.quantization import QuantType
from torchpare.errors import ConfigError
from torchpare.numerics.affine import Grid
from torchpare.numerics.gradients import binarize
from torchpare.quantization.base import Quantizer
from torchpare.quantization.dorefa import refuse_schemes
from torchpare.quantization.fixed import FixedLevels
from torchpare.quantization.places import Place

__all__ = ["BNNQuantizer"]

_SIGN = QuantSpec(Grid(1))


class BNNQuantizer(Quantizer):
    """Weights and activations +1 or -1, zero being +1; gradients pass where the value lies within [-1, 1].

    Meant for training from the start, with norms after the layers and no ReLU before a sign: a ``Hardtanh`` is usual.
    A pruned weight is made zero after the sign.

    Courbariaux, Hubara, Soudry, El-Yaniv, Bengio, "Binarized Neural Networks: Training Neural Networks with Weights and
    Activations Constrained to +1 or -1", 2016.

    Args:
        model: what to quantize. The constructor only reads it.
        config_list: as elsewhere; ``quant_bits`` is 1.
        optimizer: counts the steps of ``quant_start_step``.
        scaled: multiply the signs of each output channel by the mean absolute weight it has (Rastegari, Ordonez,
            Redmon, Farhadi, "XNOR-Net", ECCV 2016, section 3.1).

    Raises:
        ConfigError: an argument cannot be used.
    """

    folds: ClassVar[bool] = False
    defaults: ClassVar[Mapping[QuantType, QuantSpec]] = dict.fromkeys(("weight", "input", "output"), _SIGN)  # type: ignore[arg-type]

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        *,
        scaled: bool = False,
    ) -> None:
        self.scaled = scaled
        super().__init__(model, config_list, optimizer)

    def check(self, place: Place) -> None:
        """A sign has one bit."""
        refuse_schemes(place, type(self).__name__, "a sign is a sign")
        if place.spec.grid.bits != 1:
            bits = place.spec.grid.bits
            raise ConfigError(f"{place.name}: 'quant_bits' is {bits}; {type(self).__name__} makes signs, which have 1")

    def weight_quantizer(self, place: Place) -> FakeQuantize:
        """The sign of a weight."""
        return weight_signs(place.spec, place.name, place.axis, scaled=self.scaled)

    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """The sign of an activation."""
        return activation_signs(place.spec, place.name)


class Signs(FixedLevels):
    """Signs of activations. Of the first batch it looks whether they tell anything."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.observing = True

    @torch.no_grad()
    def observe(self, *tensors: Tensor) -> None:
        """Warn where nothing is below zero: after a ReLU all signs are +1, and the layers after learn nothing."""
        if torch.compiler.is_compiling() or not any(x.numel() for x in tensors):
            return
        self.observing = False
        if all(bool((x >= 0).all()) for x in tensors):
            warnings.warn(
                f"{self.name} is never below zero, so that all its signs are +1 and tell nothing: put a Hardtanh, or "
                "nothing, in place of the ReLU before it",
                stacklevel=2,
            )


def weight_signs(spec: QuantSpec, name: str, axis: int, *, scaled: bool) -> FixedLevels:
    """The quantizer of a weight; ``scaled`` by the mean size of each channel along ``axis``."""
    step = partial(_mean_size, axis=axis) if scaled else _one
    kind = "scaled signs" if scaled else "signs"
    made = FixedLevels(spec, name, kind, partial(_signs, step=step), step, keeps_zero=False)
    made.axis = axis
    return made


def activation_signs(spec: QuantSpec, name: str) -> Signs:
    """The quantizer of an activation."""
    return Signs(spec, name, "signs of data", binarize, _one, keeps_zero=False)


def _signs(weight: Tensor, step: Any) -> Tensor:
    return binarize(weight, None if step is _one else step(weight).to(weight.dtype))


def _one(x: Tensor) -> Tensor:
    return torch.ones((), device=x.device)


def _mean_size(weight: Tensor, axis: int) -> Tensor:
    over = [at for at in range(weight.dim()) if at != axis]
    size = weight.detach().abs().mean(over, keepdim=True)
    return torch.where(size > 0, size, 1.0)
