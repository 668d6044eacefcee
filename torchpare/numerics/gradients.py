"""Quantizers that learn their grid, or have a gradient of their own: forward and backward as their papers have them.

Scales and zero points broadcast as in `torchpare.numerics.affine`, whose rounding they share. A parameter that
broadcasts gets the sum of the gradients of all that it was broadcast to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchpare.numerics.affine import Grid, codes_of, fake_quantize, nearest

__all__ = ["binarize", "dorefa_activation", "dorefa_weight", "lsq", "lsq_plus", "lsq_start", "pact", "whole_offset"]


def lsq(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid, processes: int = 1) -> Tensor:
    """Fake quantization whose step size is learnt.

    Esser et al., "Learned Step Size Quantization", ICLR 2020, section 2: the rounding passes the gradient of ``x``
    straight through where ``qmin < x/s < qmax``; the step's is ``round(x/s) - x/s`` there and the end of the grid
    elsewhere, divided by ``sqrt(n * qmax)``, ``n`` being how many values share a step.

    Args:
        x: the values.
        scale: above zero.
        zero_point: whole, without gradient; zero in the paper.
        grid: the integers.
        processes: how many processes have as many values each that share the step: ``n`` counts them all, so that the
            mean of their gradients is what one process would have that sees all values.
    """
    return _Learned.apply(x, scale, zero_point, None, grid, processes)  # type: ignore[return-value]


def lsq_plus(x: Tensor, scale: Tensor, offset: Tensor, grid: Grid, processes: int = 1) -> Tensor:
    """Fake quantization whose step size and offset are learnt.

    Bhalgat et al., "LSQ+: Improving Low-Bit Quantization Through Learnable Offsets and Better Initialization", CVPR
    Workshops 2020, section 3.1. The paper's offset is the real value of the integer 0; it is used rounded to whole
    steps (`whole_offset`), so that the grid has a whole zero point, as integer runtimes need it. Its gradient is that
    of the clipped values, scaled like the step's; the step's gradient of a clipped value is ``qmin`` or ``qmax``.

    Args:
        x: the values.
        scale: above zero.
        offset: of the scale's shape.
        grid: the integers.
        processes: as for `lsq`.
    """
    return _Learned.apply(x, scale, whole_offset(scale, offset, grid), offset, grid, processes)  # type: ignore[return-value]


def whole_offset(scale: Tensor, offset: Tensor, grid: Grid) -> Tensor:
    """The zero point, int32 and within the grid, whose grid has the integer 0 nearest to the real ``offset``."""
    return (-offset.detach() / scale.detach()).round().clamp(grid.qmin, grid.qmax).to(torch.int32)


def lsq_start(x: Tensor, grid: Grid, dims: Sequence[int] | None = None) -> Tensor:
    """The step size to start with, ``2 * mean(|x|) / sqrt(qmax)`` (Esser et al., section 2.1); 1 where all is zero."""
    size = x.detach().float().abs()
    mean = size.mean() if dims is None else size.mean(tuple(dims), keepdim=True) if dims else size
    start = 2 * mean / math.sqrt(max(grid.qmax, 1))
    return torch.where(start == 0, 1.0, start)  # NaN stays, so that it is found


def pact(x: Tensor, alpha: Tensor, grid: Grid) -> Tensor:
    """Clip to ``[0, alpha]``, ``alpha`` being learnt, and quantize to the unsigned grid.

    Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018, section 3: values at or
    above alpha hand their gradient to it; values below zero have none.

    Args:
        x: the activations; the clipping stands for a ReLU.
        alpha: above zero.
        grid: unsigned.
    """
    return _Clipped.apply(x, alpha, grid)  # type: ignore[return-value]


def dorefa_weight(weight: Tensor, bits: int) -> Tensor:
    """Weights on ``2**bits`` even levels from -1 to 1; for one bit ``sign(w) * mean(|w|)``.

    Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients", 2016,
    section 2.3: ``2 * quantize(tanh(w) / (2 * max|tanh(w)|) + 1/2) - 1``. The gradient passes straight through the
    rounding and, of one bit, the sign; through the rest it is calculated, with the maximum held constant.
    """
    if bits == 1:
        return binarize(weight, weight.detach().abs().mean(), clipped=False)
    squashed = torch.tanh(weight)
    top = squashed.detach().abs().max() if weight.numel() else squashed.new_ones(())
    return 2 * _levels(squashed / (2 * torch.where(top > 0, top, 1.0)) + 0.5, bits) - 1


def dorefa_activation(x: Tensor, bits: int) -> Tensor:
    """Activations clipped to [0, 1], on ``2**bits`` even levels; Zhou et al., section 2.4."""
    return _levels(x.clamp(0, 1), bits)


def binarize(x: Tensor, scale: Tensor | None = None, *, clipped: bool = True) -> Tensor:
    """+1 or -1, zero being +1.

    Courbariaux et al., "Binarized Neural Networks: Training Neural Networks with Weights and Activations Constrained to
    +1 or -1", 2016, section 1.3: the gradient passes where ``|x| <= 1``.

    Args:
        x: the values.
        scale: multiplied in, such as the mean absolute weight of each channel (Rastegari et al., ECCV 2016).
        clipped: False lets all of the gradient pass.
    """
    signs: Tensor = _Sign.apply(x, 1.0 if clipped else math.inf)  # type: ignore[assignment]
    return signs if scale is None else signs * scale


def _levels(unit: Tensor, bits: int) -> Tensor:
    """Values in [0, 1] on ``2**bits`` even levels."""
    precise = torch.float64 if unit.dtype == torch.float64 else torch.float32
    scale = torch.full((), 1 / ((1 << bits) - 1), dtype=precise, device=unit.device)
    return fake_quantize(unit, scale, torch.zeros((), dtype=torch.int32, device=unit.device), Grid(bits))


def _summed_to(grad: Tensor, parameter: Tensor) -> Tensor:
    return grad.sum_to_size(parameter.shape).to(parameter.dtype)


def _within(value: Tensor, place: Tensor, grid: Grid) -> Tensor:
    """A value where ``place`` lies between the ends of the grid, and zero where it lies on or beyond them."""
    kept = torch.ops.aten.hardtanh_backward(value.to(place.dtype), place, float(grid.qmin), float(grid.qmax))
    return kept.to(value.dtype)


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, offset: Tensor | None, grid: Grid, processes: int
    ) -> Tensor:
        ratio = (x if x.dtype == torch.float64 else x.float()) / scale
        codes = codes_of(x, scale, zero_point, grid)
        value = nearest(codes, scale, zero_point, grid, codes.dtype)
        place = ratio if grid.symmetric and grid.middle == 0 else ratio + zero_point
        ctx.grid, ctx.learns_offset = grid, offset is not None
        sharing = max(ratio.numel() // max(scale.numel(), 1), 1) * processes
        ctx.factor = 1 / math.sqrt(sharing * max(grid.qmax, 1))
        # What is kept moves by round(x/s) - x/s with the step; what is clipped by its integer, counted from the offset
        # if that is learnt, or else from zero.
        slope = codes.clamp(grid.qmin, grid.qmax)
        if offset is None:
            slope = slope.sub_(zero_point)
        slope = slope.sub_(_within(ratio if offset is None else place, place, grid))
        ctx.save_for_backward(scale, slope, place)
        return value.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scale, slope, place = ctx.saved_tensors
        kept = _within(grad, place, ctx.grid)
        of_scale = _summed_to(grad.to(slope.dtype) * slope, scale) * ctx.factor
        clipped = _summed_to((grad - kept).to(slope.dtype), scale) if ctx.learns_offset else None
        return kept, of_scale, None, None if clipped is None else clipped * ctx.factor, None, None


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, grid: Grid) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, alpha)
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        return fake_quantize(x.detach(), alpha.detach() / grid.qmax, zero, grid)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, alpha = ctx.saved_tensors
        return grad * ((x >= 0) & (x < alpha)), _summed_to(grad * (x >= alpha), alpha), None


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.limit = limit
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= ctx.limit), None
