"""How the hand-written nets of the zoo are listed: a builder by its name, and the number generator of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Builder", "Built", "Drawn", "normal"]

Built = tuple[nn.Module, Any]
"""A model, and what to call it with: a tensor, a tuple of positional arguments or a dict of keywords."""

Drawn = torch.Generator
"""Where a builder draws its inputs from; the weights come from torch's own generator, seeded by the suite."""

Builder = Callable[[Drawn], Built]


def normal(generator: Drawn, *shape: int) -> Tensor:
    """Normal numbers of the given shape."""
    return torch.randn(shape, generator=generator)
