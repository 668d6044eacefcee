"""Quantization-aware training: weights and activations are rounded while the model learns, and it learns to bear it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torchpare.attach import FakeQuantize
from torchpare.config import QuantSpec
from torchpare.config.quantization import Observer, QuantType
from torchpare.numerics.affine import Grid
from torchpare.quantization.base import Quantizer
from torchpare.quantization.places import Place

__all__ = ["ACTIVATION", "WEIGHT", "QATQuantizer", "QAT_Quantizer"]

WEIGHT = QuantSpec(Grid(8, signed=True, symmetric=True, narrow=True), "channel")
"""Weights: integers on both sides of zero, a scale for each output channel."""

ACTIVATION = QuantSpec(Grid(8), observer="moving_average")
"""Activations: integers from zero up, lying where the data do."""


class QATQuantizer(Quantizer):
    """Fake quantization in training: symmetric weights by channel, affine activations over a moving average of ranges.

    Weights are rounded on the range that they have at each moment; activations on the range that training has shown,
    which evaluation leaves alone. With ``dummy_input`` a weight before a batch norm is rounded as it will be once the
    norm is folded into it, by the norm's running statistics, and its output is quantized after the norm.

    Jacob, Kligys, Chen, Zhu, Tang, Howard, Adam, Kalenichenko, "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", CVPR 2018. For the arguments see
    :class:`~torchpare.quantization.Quantizer`.
    """

    defaults: ClassVar[Mapping[QuantType, QuantSpec]] = {"weight": WEIGHT, "input": ACTIVATION, "output": ACTIVATION}

    observers: ClassVar[Mapping[QuantType, tuple[Observer, ...]]] = {
        "weight": ("min_max",),
        "input": ("min_max", "moving_average"),
        "output": ("min_max", "moving_average"),
    }

    def weight_quantizer(self, place: Place) -> FakeQuantize:
        """A grid that follows the weight."""
        return FakeQuantize(place.spec, place.name, axis=place.axis, follows=True)

    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """A grid over the ranges that training shows."""
        return FakeQuantize(place.spec, place.name)


QAT_Quantizer = QATQuantizer
