"""Learned step size quantization: the steps of weights and activations are trained with everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from torchpare.attach import FakeQuantize
from torchpare.config import QuantSpec
from torchpare.config.quantization import QuantType
from torchpare.errors import ConfigError
from torchpare.numerics.affine import Grid
from torchpare.numerics.shards import whole
from torchpare.quantization.base import Quantizer
from torchpare.quantization.learned import LearnedGrid, LearnedStep
from torchpare.quantization.places import Place

__all__ = ["LsqPlusQuantizer", "LsqQuantizer"]

_SYMMETRIC = QuantSpec(Grid(8, signed=True, symmetric=True))


class LsqQuantizer(Quantizer):
    """Steps that are parameters, by the gradient of the rounding error; one for each tensor, symmetric and signed.

    Weights start at ``compress()``, activations at the first batch of training. Where activations are never negative,
    ``"signed": {"output": False}`` gives them all of the integers.

    Esser, McKinstry, Bablani, Appuswamy, Modha, "Learned Step Size Quantization", ICLR 2020. For the arguments see
    :class:`~torchpare.quantization.Quantizer`; the optimizer may be given there, or be made of ``model.parameters()``
    after ``compress()``.
    """

    folds: ClassVar[bool] = False
    defaults: ClassVar[Mapping[QuantType, QuantSpec]] = dict.fromkeys(("weight", "input", "output"), _SYMMETRIC)  # type: ignore[arg-type]

    def check(self, place: Place) -> None:
        """Only symmetric grids have nothing but a step."""
        if place.spec.grid.symmetric:
            return
        more = ", or use LsqPlusQuantizer, which learns an offset too" if place.kind in ("input", "output") else ""
        raise ConfigError(f"{place.name}: {type(self).__name__} learns the step of symmetric grids here; leave "
                          f"'quant_scheme' out{more}")  # fmt: skip

    def weight_quantizer(self, place: Place) -> FakeQuantize:
        """A step that starts from the weight."""
        quantizer = LearnedStep(place.spec, place.name, axis=place.axis)
        quantizer.observe(whole(place.parameter))
        return quantizer

    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """A step that starts from the first batch."""
        return LearnedStep(place.spec, place.name, of_data=True)


class LsqPlusQuantizer(LsqQuantizer):
    """LSQ with an offset for activations, which is learnt as well, so that values of one sign waste no integers.

    Weights start from three standard deviations around their mean, activations from the range of the first batch.

    Bhalgat, Lee, Nagel, Blankevoort, Kwak, "LSQ+: Improving Low-Bit Quantization Through Learnable Offsets and Better
    Initialization", CVPR Workshops 2020.
    """

    defaults: ClassVar[Mapping[QuantType, QuantSpec]] = {
        "weight": _SYMMETRIC,
        "input": QuantSpec(Grid(8)),
        "output": QuantSpec(Grid(8)),
    }

    def check(self, place: Place) -> None:
        """Weights are symmetric, as in the paper."""
        if place.kind not in ("input", "output"):
            super().check(place)

    def weight_quantizer(self, place: Place) -> FakeQuantize:
        """A step that starts from the spread of the weight."""
        quantizer = LearnedStep(place.spec, place.name, axis=place.axis, start=_three_deviations)
        quantizer.observe(whole(place.parameter))
        return quantizer

    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """A step and an offset that start from the first batch; of a symmetric grid, a step alone."""
        if place.spec.grid.symmetric:
            return LearnedStep(place.spec, place.name, of_data=True)
        return LearnedGrid(place.spec, place.name)


def _three_deviations(quantizer: FakeQuantize, granules: Tensor) -> Tensor:
    """The step with which the larger of ``|mean - 3 std|`` and ``|mean + 3 std|`` is the end of the grid."""
    dims = quantizer.dims(granules)
    over = tuple(range(granules.dim())) if dims is None else dims
    deviation, mean = torch.std_mean(granules.float(), over, correction=0, keepdim=dims is not None)
    step = (mean.abs() + 3 * deviation) / 2 ** (quantizer.spec.grid.bits - 1)
    return torch.where(step == 0, 1.0, step)
