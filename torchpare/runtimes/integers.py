"""Numbers as the integers of eight-bit kernels: what is stored of a weight, and the grid that an activation gets.

A weight is judged by its values alone, not by the algorithm that chose them: whatever lies on whole multiples of a
scale, with no more than 256 of them between the lowest and the highest, is stored exactly. Fewer bits than eight are
stored in eight, and an activation's grid of fewer bits is cut out of one of eight by clipping what goes in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchpare.errors import QuantizationError
from torchpare.numerics.affine import Grid

__all__ = ["EXACT", "ROUNDING", "Step", "Stored", "step_of", "store", "stored_levels"]

ROUNDING = 1e-3
"""How far, in steps, a weight may lie from its level: float32 rounding of value, scale and the factor of a norm."""

EXACT = 64
"""The largest absolute weight of which two products with 255 are sure to be added exactly in 16 bits."""


@dataclass(frozen=True)
class Stored:
    """A weight in eight bits: ``(codes - zero_point) * scale``."""

    codes: Tensor
    """int8, in the shape of the weight."""

    scale: Tensor
    """float32, of shape ``()``, or one for each index of ``axis``."""

    zero_point: Tensor
    """int64, of the shape of ``scale``; zero wherever the levels allow that, for kernels are fastest then."""

    axis: int
    """Along which the scales lie; 0 if there is one."""

    @property
    def value(self) -> Tensor:
        """The weight, float32."""
        return (self.codes.long() - _along(self.zero_point, self)) * _along(self.scale, self)

    @property
    def levels(self) -> Tensor:
        """By how many steps each value is away from zero, int64."""
        return self.codes.long() - _along(self.zero_point, self)


@dataclass(frozen=True)
class Step:
    """The grid of an activation, as a runtime knows it."""

    scale: float
    zero_point: int
    dtype: torch.dtype
    low: int
    high: int
    """The integers that are in use, both included."""

    @property
    def whole(self) -> bool:
        """Whether saturation alone keeps values on the grid; a lone missing lowest integer (-128) does not count."""
        info = torch.iinfo(self.dtype)
        return self.high == info.max and self.low in (info.min, info.min + 1)

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value of the grid."""
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale


def store(value: Tensor, scale: Tensor, axis: int) -> Stored | str:
    """A weight in eight bits, or why that cannot be.

    Args:
        value: as the model uses it, ``(O, I, ...)`` or with its outputs along ``axis``.
        scale: above zero; a scalar, or of the weight's rank with one size along ``axis`` and 1 elsewhere.
        axis: where the output channels lie.
    """
    shared = scale.dim() == 0 or scale.numel() == 1
    if not shared and (scale.dim() != value.dim() or scale.numel() != scale.shape[axis]):
        return "a scale for each group of weights: eight-bit kernels take one for each output channel"
    exact = value.double() / scale.double()
    levels = exact.round()
    if not bool(((exact - levels).abs() <= ROUNDING * levels.abs().clamp(min=1)).all()):
        return "its values are no whole multiples of a scale"
    return stored_levels(levels.long(), scale.reshape(() if shared else (-1,)), axis)


def stored_levels(levels: Tensor, scale: Tensor, axis: int) -> Stored | str:
    """Whole multiples of a scale in eight bits, or why that cannot be; ``scale`` is ``()`` or one for each channel."""
    rows = levels.flatten() if scale.dim() == 0 else levels.movedim(axis, 0).flatten(1)
    low, high = rows.amin(-1).clamp(max=0), rows.amax(-1).clamp(min=0)
    if int((high - low).max()) > 255:
        return f"its values span {int((high - low).max()) + 1} levels, and eight bits hold 256"
    fits = bool((low >= -128).all() and (high <= 127).all())
    zero_point = torch.zeros_like(low) if fits else (-128 - low).clamp(max=127)
    finer = _finest(low, high) if fits else torch.ones_like(low)
    shape = () if scale.dim() == 0 else tuple(-1 if at == axis else 1 for at in range(levels.dim()))
    codes = (levels * finer.reshape(shape) + zero_point.reshape(shape)).to(torch.int8)
    return Stored(codes.contiguous(), (scale.float() / finer).contiguous(), zero_point.long().contiguous(), axis)


def _finest(low: Tensor, high: Tensor) -> Tensor:
    """The largest power of two, for each channel, by which its levels may be multiplied and still be of 7 bits.

    The values stay the same to the bit, and the steps get smaller. Runtimes round a bias to the product of the steps of
    input and weight, so that with steps of four bits it would be far off. Up to 64 sums are exact on every processor
    (see `torchpare.runtimes.saturation`), which is why somebody may have asked for 7 bits.
    """
    finer = torch.ones_like(low)
    for power in range(1, 8):
        roomy = (low * 2**power >= -EXACT) & (high * 2**power <= EXACT) & (low < high)
        finer = torch.where(roomy, 2**power, finer)
    return finer


def step_of(scale: Tensor, zero_point: Tensor, grid: Grid) -> Step | str:
    """The grid of an activation in eight bits, or why that cannot be.

    Raises:
        QuantizationError: the scale is not above zero, or not finite.
    """
    if scale.numel() != 1:
        return "a scale for each channel of an activation: eight-bit kernels take one for the tensor"
    if grid.bits > 8:
        return f"{grid.bits} bits: eight-bit kernels hold 8"
    if not (float(scale) > 0 and bool(scale.isfinite().all())):
        raise QuantizationError(f"a scale of {float(scale):g} is none: run data through the model before deploying it")
    dtype = torch.int8 if grid.qmin < 0 else torch.uint8
    return Step(float(scale), int(zero_point), dtype, grid.qmin, grid.qmax)


def _along(vector: Tensor, stored: Stored) -> Tensor:
    if vector.dim() == 0:
        return vector
    return vector.reshape([-1 if at == stored.axis else 1 for at in range(stored.codes.dim())])
