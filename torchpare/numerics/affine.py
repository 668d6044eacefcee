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

__all__ = [
    "Grid",
    "check_finite",
    "codes_of",
    "dequantize",
    "fake_quantize",
    "is_even",
    "nearest",
    "quantize",
    "scale_and_zero_point",
    "settled",
    "where_kept",
]

MAX_BITS = 16
"""Beyond these, the rounding of float32 itself is no longer small beside a step."""

_LARGEST_HALF = torch.finfo(torch.float16).max
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
    scale = settled(scale)
    if grid.symmetric:
        return scale, torch.full_like(scale, grid.middle, dtype=torch.int32)
    zero_point = (grid.qmin - torch.round(low / scale)).clamp(grid.qmin, grid.qmax)
    return scale, settled(zero_point.to(torch.int32))


def is_even(grid: Grid) -> bool:
    """Whether a grid has its zero in the middle and as many steps on either side: ``-x`` becomes ``-q``."""
    return _centred(grid) and grid.narrow


def settled(x: Tensor) -> Tensor:
    """The same few numbers, which a compiler writes to memory.

    One that fuses would work them out anew for every element of the large tensor that they are for, which takes longer
    than all that is done to the element. A view by strides is of what lies in memory; in eager code nothing is done.
    """
    inside = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    return x.as_strided(x.size(), x.stride()) if inside else x


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """The integers of a tensor, as int32; ``scale`` and ``zero_point`` broadcast to it. Infinities saturate.

    The zero point of a symmetric grid is its middle, here and everywhere below.

    Raises:
        QuantizationError: the tensor holds NaN, which is no integer.
    """
    if bool(x.isnan().any()):
        raise QuantizationError("the tensor holds NaN, which no integer stands for")
    return codes_of(x, scale, zero_point, grid).clamp_(grid.qmin, grid.qmax).to(torch.int32)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The real values of integers, in the dtype of ``scale``."""
    return (q - zero_point).to(scale.dtype) * scale


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, *, covered: bool = False) -> Tensor:
    """``dequantize(quantize(x))`` in the dtype of ``x``, through which gradients pass where nothing was clipped.

    The straight-through estimator of Bengio, Leonard, Courville, 2013, clipped as in Jacob et al., section 3: the
    gradient of a value whose integer lies outside of the grid is zero. NaN stays NaN. Scale and zero point get no
    gradient; see `torchpare.numerics.gradients` for grids that are learnt.

    Args:
        x: the values.
        scale: above zero.
        zero_point: within the grid.
        grid: the integers.
        covered: that ``scale`` was made for the range of ``x`` itself. A symmetric signed narrow grid then clips
            nothing, so that looking for what is clipped is left out; the values and gradients are the same.
    """
    if covered and is_even(grid):
        return _Rounded.apply(x, scale)  # type: ignore[return-value]
    if torch.is_grad_enabled() and x.requires_grad:
        return _FakeQuantize.apply(x, scale, zero_point, grid)[0]  # type: ignore[index]
    return nearest(codes_of(x, scale, zero_point, grid), scale, zero_point, grid, x.dtype)


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


def codes_of(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """The integers of a tensor before any is clipped to the grid, as a new floating-point tensor.

    In place on what is ours: on a processor each pass over memory costs as much as its arithmetic. Bounds are numbers,
    not tensors, for the same reason, and a zero point known to be 0 is not added.
    """
    codes = (_wide(x) / scale).round_()
    return codes if _centred(grid) else codes.add_(zero_point.to(codes.dtype))


def nearest(codes: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """The real values of the grid's integers that are nearest to ``codes``, as a new tensor."""
    inside = codes.clamp(grid.qmin, grid.qmax)
    if not _centred(grid):
        inside.sub_(zero_point.to(inside.dtype))
    inside.mul_(scale)
    if dtype == torch.float16:  # of a range up to its largest number, the last step may lie beyond that
        inside.clamp_(-_LARGEST_HALF, _LARGEST_HALF)
    return inside.to(dtype)


def where_kept(grad: Tensor, codes: Tensor, grid: Grid) -> Tensor:
    """A gradient, zero where ``codes`` lie outside of the grid. One vectorised pass, which a mask of bools is not."""
    kept = torch.ops.aten.hardtanh_backward(grad.to(codes.dtype), codes, grid.qmin - 0.5, grid.qmax + 0.5)
    return kept.to(grad.dtype)


class _Rounded(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        return (_wide(x) / scale).round_().mul_(scale).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        del ctx
        return grad, None


class _FakeQuantize(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        codes = codes_of(x, scale, zero_point, grid)
        return nearest(codes, scale, zero_point, grid, x.dtype), codes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.grid = inputs[3]
        ctx.set_materialize_grads(False)  # or zeros of the size of x are made for the codes, in each backward pass
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, None, None, None]:  # type: ignore[override]
        (codes,) = ctx.saved_tensors
        return None if grad is None else where_kept(grad, codes, ctx.grid), None, None, None


def _centred(grid: Grid) -> bool:
    """Whether the zero point can only be 0."""
    return grid.symmetric and grid.middle == 0


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
