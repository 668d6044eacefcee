"""A tensor on its way through a grid: computing is pure, observing is asked for, all of its state is buffers.

A `FakeQuantize` hangs on a layer as a child and is called on one of its tensors. Calling it only ever computes. What a
grid covers is learnt by `observe`, which the layer's hooks call in training, or while calibrating; of a weight the
range is that of the weight at hand (``follows``), so that nothing has to be observed and nothing can be out of date.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor

from torchpare.attach.grid_state import GridState
from torchpare.attach.ranks import many_ranks, range_over_ranks, sum_over_ranks
from torchpare.config.quantization import QuantSpec
from torchpare.numerics.affine import check_finite, fake_quantize, is_even, scale_and_zero_point
from torchpare.numerics.histograms import BINS, Histogram, recommended_range
from torchpare.numerics.ranges import Range, min_max, moving_average

__all__ = ["FakeQuantize"]

DECAY = 0.99
"""Of the moving average: what the range so far keeps of its weight with each batch."""


class FakeQuantize(GridState):
    """Rounds a tensor to a grid of integers and back.

    Until it is ``active`` it lets tensors pass: before its first step has come, and before it knows a range.

    Args:
        spec: the grid, and how its range is found.
        name: of the tensor, for messages: "conv1.weight".
        axis: of a weight, where its output channels lie.
        follows: take the range of each tensor it is called with. Otherwise the range is observed.
        counts_passes: every training pass is a step. Otherwise `count_step` is called by whoever knows the optimizer.
    """

    counts: Tensor | None

    observing: bool
    """Whether it learns from what passes: in training, and while ``calibrating``."""

    calibrating: bool
    """Whether it learns in evaluation too."""

    joined: tuple[FakeQuantize, ...] = ()
    """The others with which it has one grid. In a tuple, where ``nn.Module`` does not take them for children."""

    observes_on = True
    """Whether it observes all of training, not until a buffer says that it has seen enough."""

    kind = "observed"
    """Which of the quantizers it is, in files."""

    of_data = True
    """Whether each process that trains has values of its own, as of activations, so that ranges are exchanged. What is
    the same everywhere, a weight, is not: then one process alone may observe it."""

    on_grid = True
    """Whether scale and zero point with the integers of ``spec`` are all there is to know."""

    keeps_zero = True
    """Whether zero is a value of the grid; if not, a pruned weight is masked after it once more."""

    def __init__(
        self, spec: QuantSpec, name: str, *, axis: int = 0, follows: bool = False, counts_passes: bool = True
    ) -> None:
        super().__init__()
        self.spec, self.name, self.axis, self.follows, self.counts_passes = spec, name, axis, follows, counts_passes
        self.may_follow, self.observing, self.calibrating = follows, not follows, False
        self.register_buffer("scale", torch.ones(()))
        zero = spec.grid.middle if spec.grid.symmetric else spec.grid.qmin
        self.register_buffer("zero_point", torch.tensor(zero, dtype=torch.int32))
        for buffer, start in (("low", 0.0), ("high", 0.0), ("seen", 0), ("steps", 0)):
            self.register_buffer(buffer, torch.tensor(start))
        self.register_buffer("grid", torch.tensor([spec.grid.qmin, spec.grid.qmax, spec.grid.symmetric]))
        counted = spec.observer in ("percentile", "kl", "mse") and spec.granularity == "tensor" and not follows
        self.register_buffer("counts", torch.zeros(BINS, dtype=torch.float64) if counted else None)
        self.active = False
        self.see_whether_active()

    # ------------------------------------------------------------------------------------------------------ computing

    def forward(self, x: Tensor) -> Tensor:
        """The tensor with its values on the grid; it is not observed."""
        if not self.active:
            return x
        granules = self.granules(x)
        own = self._parameters_for(granules)
        return fake_quantize(granules, *own, self.spec.grid, covered=self.follows).reshape(x.shape)

    def qparams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``scale`` and ``zero_point`` that the tensor meets, broadcasting to its `granules`; without gradient."""
        with torch.no_grad():
            scale, zero_point = self._parameters_for(self.granules(x) if self.follows else x)
            return scale.detach(), zero_point.detach()

    @property
    def scales_along(self) -> bool:
        """Whether a factor for each output channel is one for its scale and nothing else: the integers stay."""
        grid = self.spec.grid
        return self.follows and self.spec.granularity != "tensor" and is_even(grid)

    def granules(self, x: Tensor) -> Tensor:
        """The tensor, seen so that a scale for each granule broadcasts to it: ``(O, groups, size)`` for groups."""
        return x.flatten(1).unflatten(1, (-1, self.spec.group_size)) if self.spec.granularity == "group" else x

    def _parameters_for(self, granules: Tensor) -> tuple[Tensor, Tensor]:
        if not self.follows:
            return self.scale, self.zero_point
        return scale_and_zero_point(*min_max(granules, self.dims(granules)), self.spec.grid)

    def dims(self, granules: Tensor) -> tuple[int, ...] | None:
        """The axes over which a granule extends; None for all."""
        if self.spec.granularity == "tensor":
            return None
        if self.spec.granularity == "group":
            return (2,)
        return tuple(at for at in range(granules.dim()) if at != self.axis)

    # ------------------------------------------------------------------------------------------------------- observing

    @torch.no_grad()
    def observe(self, *tensors: Tensor) -> None:
        """Take note of what tensors hold, all of them together, once.

        Raises:
            QuantizationError: they hold NaN or infinities. Nothing was noted.
        """
        tensors = tuple(self.granules(x.detach()) for x in tensors if x.numel())
        if (ends := self._range_of(tensors)) is None:
            return
        self._note(*ends, tensors)
        self.seen += 1
        if not self.spec.start_step:
            self.active = True
        elif not self.active:
            self.see_whether_active()

    def check_range(self) -> None:
        """See that the range so far is one. Compiled code, which cannot stop for that, is asked after it.

        Raises:
            QuantizationError: values were not finite.
        """
        if not torch.compiler.is_compiling() and not self.low.is_meta:
            check_finite(self.low, self.high, self.name)

    def train(self, mode: bool = True) -> FakeQuantize:
        """Set the mode. Where that changes, the range is checked, and a pass that was counted lies behind."""
        if mode == self.training:
            return super().train(mode)
        self.check_range()
        super().train(mode)
        if self.spec.start_step:
            self.see_whether_active()
        return self

    def _range_of(self, granules: Sequence[Tensor]) -> Range | None:
        """The range of tensors, in all processes that train together; None where none of them has a value.

        Raises:
            QuantizationError: somewhere it is not finite; in all processes, or the others would wait for this one.
        """
        if not granules:
            if not (self.of_data and many_ranks()):
                return None
            low, high = torch.tensor([math.inf, -math.inf], device=self.low.device)
        else:
            lows, highs = zip(*(min_max(x, self.dims(x)) for x in granules), strict=True)
            low, high = (end.to(self.low.dtype) for end in (reduce(torch.minimum, lows), reduce(torch.maximum, highs)))
        if self.of_data:
            low, high = range_over_ranks(low, high)
        if not granules and bool(low > high):
            return None
        if not torch.compiler.is_compiling():
            check_finite(low, high, self.name)
        return low, high

    def _note(self, low: Tensor, high: Tensor, tensors: tuple[Tensor, ...]) -> None:
        if self.low.shape != low.shape:
            self.low, self.high = torch.zeros_like(low), torch.zeros_like(high)
        if self.counts is not None:
            histogram = Histogram(self.counts, self.low.double(), self.high.double()).covering(low, high)
            new = sum((histogram.counted(x) for x in tensors), torch.zeros_like(histogram.counts))
            self.counts.copy_(histogram.counts + (sum_over_ranks(new) if self.of_data else new))
            low, high = histogram.low.to(low.dtype), histogram.high.to(high.dtype)
        elif self.spec.observer == "moving_average":
            low = moving_average(self.low, low, self.seen, DECAY)
            high = moving_average(self.high, high, self.seen, DECAY)
        else:
            low = torch.where(self.seen == 0, low, torch.minimum(self.low, low))
            high = torch.where(self.seen == 0, high, torch.maximum(self.high, high))
        self.low.copy_(low)
        self.high.copy_(high)
        self._cover()

    @torch.no_grad()
    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Cover a range from now on; see `torchpare.numerics.affine.scale_and_zero_point`."""
        self.set_qparams(*scale_and_zero_point(low, high, self.spec.grid))

    @torch.no_grad()
    def set_qparams(self, scale: Tensor, zero_point: Tensor) -> None:
        """Use this scale and zero point from now on."""
        if self.scale.shape != scale.shape:
            self.scale, self.zero_point = torch.ones_like(scale), torch.zeros_like(zero_point)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    @torch.no_grad()
    def take_as_seen(self) -> None:
        """Let the range that was set count as observed, so that nothing has to be waited for."""
        scale, zero_point = self.qparams(torch.empty(0, device=self.seen.device))
        grid = self.spec.grid
        self.low, self.high = ((end - zero_point) * scale.float() for end in (grid.qmin, grid.qmax))
        self.seen.clamp_(min=1)
        self.see_whether_active()

    def fix(self, scale: Tensor, zero_point: Tensor) -> None:
        """Stay on this grid, whatever becomes of the tensor; a checkpoint remembers."""
        self.follows = False
        self.set_qparams(scale, zero_point)
        self.take_as_seen()

    def freeze(self) -> None:
        """Observe no more and be calibrated; a range that counted values recommend is worked out now."""
        self.observing = self.calibrating = False
        if bool(self.seen) and (self.counts is not None or self.joined):
            self._cover()

    # -------------------------------------------------------------------------------------------------- sharing a grid

    def join(self, others: Iterable[FakeQuantize]) -> None:
        """Have one grid with others from now on, which covers what each of them has to cover."""
        self.joined = tuple(others)
        for other in self.joined:
            other.joined = (self, *(own for own in self.joined if own is not other))

    def _cover(self) -> None:
        """Cover what was observed, here and where the grid is shared."""
        low, high = self.wish()
        for other in self.joined:
            # Those that have seen nothing wish for nothing: their range is that of a zero.
            lower, higher = other.wish()
            low, high = torch.minimum(low, lower.to(low.device)), torch.maximum(high, higher.to(high.device))
        for own in (self, *self.joined):
            own.set_range(low.to(own.low.device), high.to(own.high.device))

    def wish(self) -> Range:
        """The range to cover: what was seen, or, once no more is watched, what is worth covering of it."""
        if self.observing or self.calibrating or self.counts is None or not bool(self.counts.any()):
            return self.low, self.high
        seen = Histogram(self.counts, self.low.double(), self.high.double())
        return recommended_range(seen, self.spec.observer, self.spec.grid, self.spec.percentile)

    # ------------------------------------------------------------------------------------------------- steps and files

    def count_step(self) -> None:
        """A training step has been taken."""
        self.steps += 1
        if not self.active:
            self.see_whether_active()

    def see_whether_active(self) -> None:
        """Work out ``active`` anew, from the steps and from what was observed."""
        # Inside of compiled code a count is no number yet: there a delayed start waits for the next call from outside.
        if not torch.compiler.is_compiling():
            # A pass is counted when it begins, and is not behind us as long as it may be the one that trains now.
            past = int(self.steps) - (self.counts_passes and self.training and self.spec.start_step > 0)
            self.active = past >= self.spec.start_step and (self.knows_range or bool(self.seen))

    @property
    def knows_range(self) -> bool:
        """Whether nothing has to be observed first."""
        return self.follows

    def loaded(self) -> None:
        """What was fixed has seen its tensor, which what follows never does."""
        self.follows = self.may_follow and not bool(self.seen)
        self.see_whether_active()

    def extra_repr(self) -> str:
        """The grid in a few words."""
        grid = self.spec.grid
        kind = f"{'' if grid.signed else 'u'}int{grid.bits}, {'symmetric' if grid.symmetric else 'affine'}"
        return f"{kind}, per {self.spec.granularity}{'' if self.active else ', waiting'}"
