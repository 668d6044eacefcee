"""What many batches held, counted in bins, and the ranges that the counts recommend."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchpare.numerics.affine import Grid
from torchpare.numerics.ranges import Range, mse_range, percentile_range

__all__ = ["BINS", "Histogram", "kl_range", "recommended_range"]

BINS = 2048
"""The resolution of a histogram."""

_PART = 2**18
"""How many values are counted at once: in float64, with their bins, they take several times the room they had."""

_THRESHOLDS = 256
"""How many thresholds the Kullback-Leibler search tries."""


@dataclass(frozen=True)
class Histogram:
    """How often values fell into ``BINS`` equal bins between ``low`` and ``high``; it grows with what it sees."""

    counts: Tensor
    """``(BINS,)``, float64."""

    low: Tensor
    high: Tensor

    @classmethod
    def empty(cls, device: torch.device | None = None) -> Histogram:
        """A histogram of nothing."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(torch.zeros(BINS, dtype=torch.float64, device=device), zero, zero)

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, ``(BINS,)``, float64."""
        at = torch.arange(BINS, dtype=torch.float64, device=self.counts.device)
        return self.low + (self.high - self.low) / BINS * (at + 0.5)

    def with_values(self, x: Tensor) -> Histogram:
        """The histogram of all so far and of ``x``; where it has to grow, old counts follow their bins' middles."""
        x = x.detach().flatten()
        if x.numel() == 0:
            return self
        grown = self.covering(*torch.aminmax(x))
        return replace(grown, counts=grown.counts + grown.counted(x))

    def covering(self, low: Tensor, high: Tensor) -> Histogram:
        """The histogram with room for values from ``low`` to ``high``; one that is empty has room for them alone."""
        low, high = low.double(), high.double()
        if not bool(self.counts.any()):
            return replace(self, low=low, high=high)
        if not bool((low < self.low) | (high > self.high)):
            return self
        low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
        return Histogram(_count(self.centres, low, high, self.counts), low, high)

    def counted(self, x: Tensor) -> Tensor:
        """How many values fall into each bin, those beyond the ends into the outermost; copies only few at a time."""
        counts = torch.zeros_like(self.counts)
        for part in x.detach().flatten().split(_PART):
            values = part.double()
            counts += _count(values, self.low, self.high, torch.ones_like(values))
        return counts


def recommended_range(histogram: Histogram, observer: str, grid: Grid, percentile: float) -> Range:
    """The range that counted values recommend.

    Args:
        histogram: of the values.
        observer: ``"kl"``, ``"percentile"`` or ``"mse"``.
        grid: the integers.
        percentile: for ``"percentile"``.
    """
    if observer == "kl":
        return kl_range(histogram, grid)
    if observer == "percentile":
        return percentile_range(histogram.centres.float(), percentile, histogram.counts)
    return mse_range(histogram.centres, grid, weights=histogram.counts, whole=(histogram.low, histogram.high))


def kl_range(histogram: Histogram, grid: Grid) -> Range:
    """The range whose quantized distribution tells most of the original: the least Kullback-Leibler divergence.

    Of absolute values: what lies beyond a threshold is added to the last bin before it. Neighbouring bins are merged to
    as many as the grid has levels on one side of zero, and spread again over those that were not empty. The divergence
    between the two is measured for each threshold, and the threshold with the least is taken. Values next to zero count
    no more than their neighbours: a ReLU makes as many zeros as one likes, and they are exact on every grid.

    Migacz, "8-bit Inference with TensorRT", GTC 2017, the slides on entropy calibration.

    Args:
        histogram: of the values.
        grid: whose number of levels counts: half of them, if values lie on both sides of zero.
    """
    bound = torch.maximum(histogram.low.abs(), histogram.high.abs())
    if not bool(histogram.counts.any()) or float(bound) == 0:
        return bound.float() * 0, bound.float() * 0
    two_sided = bool((histogram.low < 0) & (histogram.high > 0)) or grid.symmetric
    levels = min(1 << max(grid.bits - two_sided, 1), BINS)
    counts = _count(histogram.centres.abs(), torch.zeros_like(bound), bound, histogram.counts)
    counts[0] = counts[1]  # zeros, of which a ReLU makes most, are exact on every grid, and would outweigh all else
    stops = sorted({*range(levels, BINS, max(1, BINS // _THRESHOLDS)), BINS}, reverse=True)
    best = min(stops, key=lambda stop: _divergence(counts, stop, levels))  # of equals, the one that clips least
    limit = bound * best / BINS
    return torch.maximum(histogram.low, -limit).float(), torch.minimum(histogram.high, limit).float()


def _count(x: Tensor, low: Tensor, high: Tensor, weights: Tensor) -> Tensor:
    width = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    at = ((x - low) / width * BINS).long().clamp(0, BINS - 1)
    return torch.bincount(at, weights, minlength=BINS)


def _divergence(counts: Tensor, stop: int, levels: int) -> float:
    kept = counts[:stop]
    reference = kept.clone()
    reference[-1] += counts[stop:].sum()
    group = torch.arange(stop, device=counts.device) * levels // stop
    filled = (kept > 0).double()
    total, cells = (counts.new_zeros(levels).index_add_(0, group, value) for value in (kept, filled))
    merged = (total / cells.clamp(min=1))[group] * filled
    if float(merged.sum()) == 0:
        return float("inf")
    p, q = reference / reference.sum(), merged / merged.sum()
    where = p > 0
    # A bin that only clipped values fell into is empty in the merged distribution: next to nothing stands for it.
    return float((p[where] * (p[where] / q[where].clamp(min=1e-12)).log()).sum())
