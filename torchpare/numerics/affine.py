"""Real numbers on a grid of integers: the one quantize and dequantize that observing, training and export share.

A real value ``x`` becomes ``q = clamp(round(x / scale) + zero_point, qmin, qmax)`` and comes back as ``(q - zero_point)
* scale``. Rounding is half to even and the division is a division, not a product with a reciprocal: as ONNX
``QuantizeLinear`` has it. Scales and zero points broadcast: a scalar is one grid for a tensor, ``(O, 1, 1, 1)`` one for
each channel, and a tensor seen as ``(..., groups, size)`` has one of ``(..., groups, 1)`` for each group.

Half-precision tensors are computed in float32 and cast back; what does not fit their type is rounded once more.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018,
section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchpare.errors import QuantizationError

__all__ = ["Grid", "check_finite", "dequantize", "fake_quantize", "quantize", "scale_and_zero_point"]

MAX_BITS = 16
"""Beyond these, the rounding of float32 itself is no longer small beside a step."""

_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Grid:
    """The integers that a tensor may become.

    Args:
        bits: 1 to 16.
        signed: from ``-2**(bits-1)`` to ``2**(bits-1)-1`` instead of from 0 to ``2**bits-1``.
        symmetric: zero lies in the middle, whatever the data; otherwise where the data want it.
        narrow: without the lowest integer, so that a signed grid has as many steps below zero as above.

    Raises:
        QuantizationError: ``bits`` is out of range, or one bit is to be narrow, which leaves a single integer.
    """

    bits: int = 8
    signed: bool = False
    symmetric: bool = False
    narrow: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise QuantizationError(f"bits is {self.bits}; a grid has 1 to {MAX_BITS}")
        if self.narrow and self.bits == 1:
            raise QuantizationError("a narrow range of 1 bit has a single integer; give 2 bits, or narrow_range=False")

    @property
    def qmin(self) -> int:
        """The lowest integer."""
        return (-(1 << (self.bits - 1)) if self.signed else 0) + self.narrow

    @property
    def qmax(self) -> int:
        """The highest integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 0 if self.signed else (self.qmin + self.qmax + 1) // 2


def scale_and_zero_point(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The step and the zero point of a grid that covers ``[low, high]`` and has zero among its values.

    A symmetric grid covers ``[-b, b]``, ``b`` being the larger of the two ends in absolute value: its step is ``b``
    over half the number of steps. An affine grid covers the range, extended to hold zero. A range that is nothing but
    zero has a scale of 1.

    Args:
        low: the smallest value, of any shape; finite.
        high: the largest value, of the same shape.
        grid: the integers.

    Returns:
        ``scale > 0`` (float32, or float64 for float64 ranges) and ``zero_point`` (int32, within the grid).
    """
    low, high = _wide(low).clamp(max=0), _wide(high).clamp(min=0)
    steps = grid.qmax - grid.qmin
    # Of an affine grid each end by itself: the difference of two large ones may be infinite.
    scale = torch.maximum(-low, high) / max(steps / 2, 1) if grid.symmetric else high / steps - low / steps
    scale = torch.where((low == 0) & (high == 0), 1.0, scale.clamp(min=_SMALLEST_SCALE))
    if grid.symmetric:
        return scale, torch.full_like(scale, grid.middle, dtype=torch.int32)
    zero_point = (grid.qmin - torch.round(low / scale)).clamp(grid.qmin, grid.qmax)
    return scale, zero_point.to(torch.int32)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """The integers of a tensor, as int32; ``scale`` and ``zero_point`` broadcast to it. Infinities saturate.

    Raises:
        QuantizationError: the tensor holds NaN, which is no integer.
    """
    if bool(x.isnan().any()):
        raise QuantizationError("the tensor holds NaN, which no integer stands for")
    return (_steps(x, scale) + zero_point).clamp(grid.qmin, grid.qmax).to(torch.int32)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The real values of integers, in the dtype of ``scale``."""
    return (q - zero_point).to(scale.dtype) * scale


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """``dequantize(quantize(x))`` in the dtype of ``x``, through which gradients pass where nothing was clipped.

    The straight-through estimator of Bengio, Leonard, Courville, 2013, clipped as in Jacob et al., section 3: the
    gradient of a value whose integer lies outside of the grid is zero. NaN stays NaN. Scale and zero point get no
    gradient; see `torchpare.numerics.gradients` for grids that are learnt.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _FakeQuantize.apply(x, scale, zero_point, grid)[0]  # type: ignore[index]
    # In place on what is ours: each pass over memory costs as much as the arithmetic. Adding 0 makes a 0 of -0.
    inside = _steps(x, scale).clamp_(grid.qmin - zero_point, grid.qmax - zero_point)
    return inside.add_(0.0).mul_(scale).to(x.dtype)


def check_finite(low: Tensor, high: Tensor, name: str) -> None:
    """Refuse a range that no grid can cover.

    Raises:
        QuantizationError: an end is NaN or infinite; the message says ``name``.
    """
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise QuantizationError(
            f"{name} holds NaN or infinite values (from {float(low.min()):g} to {float(high.max()):g}), which no "
            "integers can stand for: repair the checkpoint or the data, or exclude the layer"
        )


class _FakeQuantize(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        steps = _steps(x, scale)
        inside = steps.clamp(grid.qmin - zero_point, grid.qmax - zero_point)
        kept = inside == steps
        return inside.add_(0.0).mul_(scale).to(x.dtype), kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        del inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return grad * kept, None, None, None


def _steps(x: Tensor, scale: Tensor) -> Tensor:
    """How many steps from zero, whole; a new tensor."""
    return (_wide(x) / scale).round_()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
