"""Quantizers with something to learn of their own: a step, a step and an offset, a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import FakeQuantize
from torchpare.attach.ranks import many_ranks, mean_over_ranks, ranks
from torchpare.config import QuantSpec
from torchpare.numerics.affine import check_finite, scale_and_zero_point
from torchpare.numerics.gradients import lsq, lsq_plus, lsq_start, pact, whole_offset

__all__ = ["LearnedBound", "LearnedGrid", "LearnedStep"]

_SMALLEST = torch.finfo(torch.float32).tiny


class LearnedStep(FakeQuantize):
    """A grid whose step is a parameter, started from the first tensor it meets.

    What counts is the step's absolute value, so that an optimizer which leads it through zero does no harm.

    Args:
        spec: the grid.
        name: of the tensor, for messages.
        axis: of a weight, where its output channels lie.
        start: the step to start with, of a tensor; by default ``lsq_start``.
        of_data: whether each process that trains has values of its own, as of activations, not the same ones.
    """

    kind = "learned step"
    observes_on = False

    def __init__(
        self, spec: QuantSpec, name: str, *, axis: int = 0,
        start: Callable[[FakeQuantize, Tensor], Tensor] | None = None, of_data: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(spec, name, axis=axis)
        self.of_data = of_data
        self._start = start or _usual_start
        del self._buffers["scale"]
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """The tensor with its values on the grid, differentiable in the step too."""
        if not self.active:
            return self._waiting(x)
        granules = self.granules(x)
        return lsq(granules, self._step(), self.zero_point, self.spec.grid, self._processes()).reshape(x.shape)

    def _waiting(self, x: Tensor) -> Tensor:
        """The tensor itself; where processes train together, they are told that what is learnt here has no gradient.

        DistributedDataParallel waits for a gradient of every parameter.
        """
        return _WithoutGradient.apply(x, *self.parameters()) if many_ranks() else x  # type: ignore[return-value]

    def _processes(self) -> int:
        return ranks() if self.of_data else 1

    def _step(self) -> Tensor:
        return self.scale.abs().clamp(min=_SMALLEST)

    def _parameters_for(self, granules: Tensor) -> tuple[Tensor, Tensor]:
        del granules
        return self._step(), self.zero_point

    def check_range(self) -> None:
        """See that what is learnt are numbers: compiled code may have started from NaN, or a loss led there.

        Raises:
            QuantizationError: they are not.
        """
        if not torch.compiler.is_compiling() and not self.low.is_meta:
            for own in self.parameters():
                check_finite(own.detach(), own.detach(), self.name)

    @torch.no_grad()
    def observe(self, *tensors: Tensor) -> None:
        """Start from the first tensors that there are; from then on it is the optimizer that moves the step.

        Raises:
            QuantizationError: they hold NaN or infinities. Nothing was noted.
        """
        granules = [self.granules(x.detach()) for x in tensors if x.numel()]
        ends = self._range_of(granules)
        if ends is None:
            return
        self._begin(granules, *ends)
        self.seen += 1
        self.see_whether_active()

    def _begin(self, granules: list[Tensor], low: Tensor, high: Tensor) -> None:
        del high
        steps = [self._start(self, x).to(self.scale.dtype) for x in granules]
        step = torch.stack(steps).mean(0) if steps else None
        if step is None or self.of_data:
            step = mean_over_ranks(step, torch.zeros_like(low))
        self.set_qparams(step, torch.full_like(step, self.spec.grid.middle, dtype=torch.int32))

    @torch.no_grad()
    def set_qparams(self, scale: Tensor, zero_point: Tensor) -> None:
        """Use this scale and zero point from now on; the parameter stays the same object."""
        if self.scale.shape != scale.shape:
            self.scale.data = torch.ones_like(scale, dtype=self.scale.dtype)
        if self.zero_point.shape != zero_point.shape:
            self.zero_point = torch.zeros_like(zero_point, dtype=torch.int32)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def see_whether_active(self) -> None:
        """As every quantizer; what has been started observes no more."""
        super().see_whether_active()
        if not torch.compiler.is_compiling():
            self.observing = not bool(self.seen)


class LearnedGrid(LearnedStep):
    """A grid whose step and offset are parameters, started from the range of the first tensor."""

    kind = "learned grid"

    def __init__(self, spec: QuantSpec, name: str) -> None:
        super().__init__(spec, name, of_data=True)
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """The tensor with its values on the grid, differentiable in step and offset too."""
        if not self.active:
            return self._waiting(x)
        return lsq_plus(x, self._step(), self.offset, self.spec.grid, self._processes())

    def _parameters_for(self, granules: Tensor) -> tuple[Tensor, Tensor]:
        del granules
        return self._step(), whole_offset(self._step(), self.offset, self.spec.grid)

    def _begin(self, granules: list[Tensor], low: Tensor, high: Tensor) -> None:
        del granules
        self.set_qparams(*scale_and_zero_point(low, high, self.spec.grid))

    @torch.no_grad()
    def set_qparams(self, scale: Tensor, zero_point: Tensor) -> None:
        """Use this scale and zero point from now on."""
        super().set_qparams(scale, zero_point)
        self.offset.copy_(-zero_point * scale)


class LearnedBound(LearnedStep):
    """A ReLU with an upper bound that is a parameter, on an unsigned grid; started at the largest value it meets."""

    kind = "learned bound"

    def __init__(self, spec: QuantSpec, name: str) -> None:
        super().__init__(spec, name, of_data=True)
        del self._parameters["scale"]
        self.bound = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """The tensor cut to ``[0, bound]`` and on the grid, differentiable in the bound too."""
        return pact(x, self.bound.abs().clamp(min=_SMALLEST), self.spec.grid) if self.active else self._waiting(x)

    def _step(self) -> Tensor:
        return self.bound.abs().clamp(min=_SMALLEST) / self.spec.grid.qmax

    def _begin(self, granules: list[Tensor], low: Tensor, high: Tensor) -> None:
        del granules, low
        self.bound.copy_(torch.where(high <= 0, 1.0, high))  # NaN stays, for check_range to find

    @torch.no_grad()
    def set_qparams(self, scale: Tensor, zero_point: Tensor) -> None:
        """Use this scale from now on; the zero point is zero."""
        del zero_point
        self.bound.copy_(scale * self.spec.grid.qmax)


class _WithoutGradient(torch.autograd.Function):
    """The tensor, and gradients of zero for parameters that it does not depend on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return grad, *(torch.zeros_like(own) for own in ctx.saved_tensors)


def _usual_start(quantizer: FakeQuantize, granules: Tensor) -> Tensor:
    return lsq_start(granules, quantizer.spec.grid, quantizer.dims(granules))
