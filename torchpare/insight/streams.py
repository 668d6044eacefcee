"""Running statistics of tensors that pass: exact ends and counts, a histogram for percentiles, never the tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from torchpare.numerics.histograms import Histogram
from torchpare.numerics.ranges import percentile_range

__all__ = ["ChannelEnds", "Stream", "pieces"]

_PIECE = 1 << 20
"""So many values at a time are widened to float64."""


class Stream:
    """All values of one tensor, batch after batch. What it keeps has the size of a histogram."""

    def __init__(self) -> None:
        self.count = self.zeros = self.not_finite = 0
        self.low, self.high = math.inf, -math.inf
        self.total = self.squares = 0.0
        self.histogram = Histogram.empty()

    def see(self, x: Tensor) -> None:
        """Add the values of a tensor; those that are infinite or not a number are counted and left out."""
        x = x.detach()
        if not bool(x.isfinite().all()):
            kept = x[x.isfinite()]
            self.not_finite += x.numel() - kept.numel()
            x = kept
        if x.numel() == 0:
            return
        low, high = torch.aminmax(x.flatten())
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self.count += x.numel()
        self.zeros += x.numel() - int(x.count_nonzero())
        grown = self.histogram.covering(low.double().cpu(), high.double().cpu())
        counts = grown.counts
        for piece in pieces(x):
            counts = counts + grown.counted(piece.cpu())
            self.total += float(piece.sum())
            self.squares += float(piece.square().sum())
        self.histogram = replace(grown, counts=counts)

    @property
    def mean(self) -> float:
        """The mean of all values; 0 where there were none."""
        return self.total / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of all values."""
        return math.sqrt(max(0.0, self.squares / self.count - self.mean**2)) if self.count else 0.0

    def percentiles(self, percentile: float) -> tuple[float, float]:
        """Where the outermost values at each end are left out.

        To the width of a bin or two, each 1/2048 of the whole range: a histogram that grows moves its counts to the
        nearest of its new bins.
        """
        low, high = percentile_range(self.histogram.centres, percentile, self.histogram.counts)
        return max(self.low, float(low)), min(self.high, float(high))

    def magnitude(self, percentile: float) -> float:
        """So large, without their sign, are the smallest ``percentile`` percent of all values at most."""
        return float(percentile_range(self.histogram.centres.abs(), percentile, self.histogram.counts)[1])


class ChannelEnds:
    """The smallest and the largest value of each channel, batch after batch."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.known = True
        """False once it turned out that nobody can tell channels apart here."""

    def see(self, x: Tensor, axis: int | None) -> None:
        """Add a tensor whose channels lie along an axis."""
        if axis is None or not self.known:
            self.known = False
            return
        rows = x.detach().movedim(axis, 0).flatten(1)
        if rows.shape[1] == 0:
            return
        low, high = rows.amin(1), rows.amax(1)
        if self.low is None or self.high is None:
            self.low, self.high = low, high
        elif self.low.shape != low.shape:  # another number of channels than before: this axis holds something else
            self.known = False
        else:
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)


def pieces(x: Tensor) -> Iterator[Tensor]:
    """The values in float64, some at a time, so that the copy stays small."""
    for piece in x.flatten().split(_PIECE):
        yield piece.double()
