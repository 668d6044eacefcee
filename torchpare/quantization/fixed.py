"""Quantizers whose levels are given, whatever the data: nothing is observed and nothing is learnt."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torchpare.attach import FakeQuantize
from torchpare.config import QuantSpec

__all__ = ["FixedLevels"]


class FixedLevels(FakeQuantize):
    """Levels that a formula gives.

    Args:
        spec: the number of bits.
        name: of the tensor, for messages.
        kind: which formula, in files.
        compute: the tensor with its values on the levels.
        step: the scale of a tensor, of which all levels are whole multiples.
        keeps_zero: whether zero is a level.
    """

    on_grid = False
    observes_on = False

    def __init__(
        self, spec: QuantSpec, name: str, kind: str, compute: Callable[[Tensor], Tensor],
        step: Callable[[Tensor], Tensor], *, keeps_zero: bool,
    ) -> None:  # fmt: skip
        super().__init__(spec, name)
        self.kind = kind
        self.compute, self.step, self.keeps_zero = compute, step, keeps_zero
        self.observing = False
        self.zero_point.zero_()
        self.see_whether_active()

    @property
    def knows_range(self) -> bool:
        """Always."""
        return True

    def forward(self, x: Tensor) -> Tensor:
        """The tensor with its values on the levels."""
        return self.compute(x) if self.active else x

    def qparams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The step of the levels, and zero."""
        with torch.no_grad():
            step = self.step(x)
            return step, torch.zeros_like(step, dtype=torch.int32)
