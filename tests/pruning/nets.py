"""Tiny networks whose every pruning case can be read off: a residual, a concatenation, groups, a shared layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CONVOLUTIONS", "Residual", "batch", "randomised"]


class Residual(nn.Module):
    """A stem, a residual around a bottleneck, a concatenation with a transposed path, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(6)
        self.outer = nn.Conv2d(6, 8, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = torch.relu(x + self.outer(torch.relu(self.inner_norm(self.inner(x)))))
        both = torch.cat([x.mean((2, 3)), torch.relu(self.up(x)).mean((2, 3))], 1)
        return self.head(both)


CONVOLUTIONS = {"stem": 8, "inner": 6, "outer": 8, "up": 4}
"""The layers that filter pruners select by default, with their numbers of filters."""


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random values everywhere, norms and running statistics too: zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.normal_(0.0, 0.5, generator=generator)
    return model


def batch(size: int = 4) -> Tensor:
    """Images for :class:`Residual`."""
    return torch.randn(size, 3, 6, 6)
