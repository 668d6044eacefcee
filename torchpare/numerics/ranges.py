"""From values to the range that a grid shall cover: the whole of it, or what is worth covering.

A range is a pair ``low, high`` of tensors of one shape. With ``dims`` it is taken over those axes, which stay with size
1, so that it broadcasts back; without, over the whole tensor. An empty tensor has the range of a zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchpare.numerics.affine import Grid, fake_quantize, scale_and_zero_point

__all__ = ["Range", "min_max", "moving_average", "mse_range", "percentile_range"]

Range = tuple[Tensor, Tensor]


def min_max(x: Tensor, dims: Sequence[int] | None = None) -> Range:
    """The smallest and the largest value; infinities and NaN show in it."""
    x = x.detach()
    if x.numel() == 0:
        over = {dim % x.dim() for dim in (dims if dims is not None else range(x.dim()))}
        shape = [1 if at in over else size for at, size in enumerate(x.shape)] if dims is not None else []
        return x.new_zeros(shape), x.new_zeros(shape)
    if dims is None:
        if torch.compiler.is_compiling():
            # No exporter to ONNX knows the operator below, and a compiler fuses the two. It must be free to choose the
            # order of the axes: flattened, what lies in memory with channels last would be read one by one.
            return x.amin(tuple(range(x.dim()))), x.amax(tuple(range(x.dim())))
        low, high = torch.aminmax(x.flatten())
        return low, high
    if not dims:
        return x, x
    return x.amin(tuple(dims), keepdim=True), x.amax(tuple(dims), keepdim=True)


def moving_average(old: Tensor, new: Tensor, seen: Tensor, decay: float) -> Tensor:
    """The exponential average of ``seen + 1`` values, of which ``old`` is that of the first ``seen``.

    Its weights add up to one from the start (the bias correction of Kingma, Ba, "Adam", ICLR 2015, section 3): the
    first value is taken whole, whatever ``old`` holds then.

    Args:
        old: the average so far.
        new: the next value.
        seen: how many values ``old`` stands for; an integer tensor.
        decay: what an old value keeps of its weight with each new one, in [0, 1).
    """
    share = (1 - decay) / (1 - decay ** (seen + 1.0))
    return torch.where(seen == 0, new, old + (new - old) * share)


def percentile_range(values: Tensor, percentile: float, weights: Tensor | None = None) -> Range:
    """The range without the outermost values: from the ``100 - percentile``-th to the ``percentile``-th percentile.

    Args:
        values: in any order and shape; of a histogram, its bin centres.
        percentile: above 50, up to 100: 99.9 leaves out the thousandth at each end.
        weights: how often each occurs; once if None.
    """
    if values.numel() == 0:
        return values.new_zeros(()), values.new_zeros(())
    ordered, order = values.detach().flatten().sort()
    many = torch.ones_like(ordered) if weights is None else weights.flatten()[order]
    below = many.double().cumsum(0)
    share = below[-1] * (percentile / 100)
    # The first value at or below which there is enough; and the same, seen from above.
    at_high = torch.searchsorted(below, share).clamp(max=len(below) - 1)
    at_low = torch.searchsorted(below, below[-1] - share, right=True).clamp(max=len(below) - 1)
    return ordered[at_low], ordered[at_high]


def mse_range(
    x: Tensor,
    grid: Grid,
    dims: Sequence[int] | None = None,
    *,
    weights: Tensor | None = None,
    whole: Range | None = None,
    candidates: int = 100,
) -> Range:
    """The range with the least mean squared quantization error, among even shares of the whole one.

    Args:
        x: the values; of a histogram, its bin centres.
        grid: the integers.
        dims: as in `min_max`.
        weights: how often each value occurs; once if None.
        whole: the range whose shares are tried; that of ``x`` if None.
        candidates: how many shares are tried, up to the whole.
    """
    x = x.detach()
    low, high = min_max(x, dims) if whole is None else whole
    if x.numel() == 0 or (dims is not None and not dims):
        return low, high
    over = tuple(range(x.dim())) if dims is None else tuple(dims)
    least = torch.full_like(low, torch.inf, dtype=torch.float64)
    share = torch.ones_like(low)
    for step in range(candidates, 0, -1):
        tried = step / candidates
        scale, zero_point = scale_and_zero_point(low * tried, high * tried, grid)
        error = (fake_quantize(x, scale, zero_point, grid).double() - x.double()).square()
        error = (error if weights is None else error * weights).sum(over, keepdim=True).reshape(low.shape)
        better = error < least
        least, share = torch.where(better, error, least), torch.where(better, tried, share)
    return low * share, high * share
