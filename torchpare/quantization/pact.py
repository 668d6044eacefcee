"""PACT: activations cut at a bound that is learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torchpare.attach import FakeQuantize
from torchpare.config import QuantSpec
from torchpare.config.quantization import Observer, QuantType
from torchpare.errors import ConfigError
from torchpare.numerics.affine import Grid
from torchpare.quantization.learned import LearnedBound
from torchpare.quantization.places import Place
from torchpare.quantization.qat import WEIGHT, QATQuantizer

__all__ = ["PACTQuantizer"]

_BOUNDED = QuantSpec(Grid(8))


class PACTQuantizer(QATQuantizer):
    """Activations cut to ``[0, bound]`` and rounded, the bound being a parameter; weights as :class:`QATQuantizer`.

    The cut stands for a ReLU: name the outputs of ReLUs, or of layers before them. The bound starts at the largest
    value of the first batch, and takes the optimizer's weight decay, which draws it down as in the paper.

    Choi, Wang, Venkataramani, Chuang, Srinivasan, Gopalakrishnan, "PACT: Parameterized Clipping Activation for
    Quantized Neural Networks", 2018. For the arguments see :class:`~torchpare.quantization.Quantizer`.
    """

    decays: ClassVar[bool] = True
    defaults: ClassVar[Mapping[QuantType, QuantSpec]] = {"weight": WEIGHT, "input": _BOUNDED, "output": _BOUNDED}

    observers: ClassVar[Mapping[QuantType, tuple[Observer, ...]]] = {"weight": ("min_max",)}

    def check(self, place: Place) -> None:
        """A bound above zero asks for unsigned integers."""
        grid = place.spec.grid
        if place.kind in ("input", "output") and (grid.signed or grid.symmetric or grid.narrow):
            name = type(self).__name__
            raise ConfigError(f"{place.name}: {name} cuts activations to [0, bound], on unsigned affine grids: leave "
                              "out 'quant_scheme', 'signed' and 'narrow_range' of activations")  # fmt: skip

    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """A bound that starts from the first batch."""
        return LearnedBound(place.spec, place.name)
