"""Nets as libraries of models write them: shapes that are remembered, interleaved groups, statistics of training."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["LIBRARIES"]


@lru_cache(maxsize=64)
def _split(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
    """The shape of tokens with their width in heads; libraries that read patterns of axes remember such answers."""
    return (*shape[:-1], heads, shape[-1] // heads)


@lru_cache(maxsize=64)
def _joined(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with its last two axes as one."""
    return (*shape[:-2], shape[-2] * shape[-1])


class RememberedShapes(nn.Module):
    """Two attentions of the same sizes, whose shapes are worked out once."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.enter = nn.Linear(7, 20)
        self.projections = nn.ModuleList([nn.Linear(20, 72) for _ in range(2)])
        self.outs = nn.ModuleList([nn.Linear(24, 20) for _ in range(2)])
        self.head = nn.Linear(20, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, 7) to (B, 5)."""
        x = self.enter(tokens)
        for project, out in zip(self.projections, self.outs, strict=True):
            queries, keys, values = (
                part.reshape(_split(part.shape, self.heads)).transpose(1, 2) for part in project(x).chunk(3, dim=-1)
            )
            mixed = F.scaled_dot_product_attention(query=queries, key=keys, value=values).transpose(1, 2)
            x = x + out(mixed.reshape(_joined(mixed.shape)))
        return self.head(x.mean(1))


class InterleavedGroups(nn.Module):
    """Grouped convolutions with a shuffle between them, in a residual block; the next groups mix those before."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 2
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.widen = nn.Conv2d(8, 24, 1, groups=2)
        self.each = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.narrow = nn.Conv2d(24, 8, 1, groups=2)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5, H, W)."""
        x = self.stem(image)
        y = F.relu(self.widen(x))
        batch, channels, height, width = y.shape
        y = y.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return self.head(x + self.narrow(self.each(y.reshape(batch, channels, height, width))))


class MovingCodes(nn.Module):
    """Codes that follow the data by moving averages, which evaluation never reads; their spread is kept positive."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(7, 12)
        self.codes = nn.Buffer(torch.randn(9, 12))
        self.sums = nn.Buffer(torch.randn(9, 12))
        self.counts = nn.Buffer(torch.ones(9))
        self.spread = nn.Parameter(torch.randn(12))
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        latent = self.encode(x)
        distance = self.codes.square().sum(-1) - 2 * latent @ self.codes.t()
        chosen = F.one_hot(distance.argmin(-1), len(self.codes)).to(latent)
        if self.training:
            with torch.no_grad():
                self.counts.mul_(0.9).add_(chosen.sum(0), alpha=0.1)
                self.sums.mul_(0.9).add_(chosen.t() @ latent, alpha=0.1)
                self.codes.copy_(self.sums / self.counts[:, None].clamp(min=0.1))
        coded = latent + (chosen @ self.codes - latent).detach()
        return self.head(F.relu(F.linear(coded, self.mix.weight, F.softplus(self.spread))))


LIBRARIES: dict[str, Builder] = {
    "remembered-shapes": lambda g: (RememberedShapes(), normal(g, 2, 6, 7)),
    "interleaved-groups": lambda g: (InterleavedGroups(), normal(g, 2, 3, 8, 6)),
    "moving-codes": lambda g: (MovingCodes(), normal(g, 8, 7)),
}
