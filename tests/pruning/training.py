"""A small net, data with a pattern in it, and an epoch of training, for the pruners that train or watch training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Small", "batches", "train"]


class Small(nn.Module):
    """Two convolutions with norms, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.norm_a = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm_b = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm_a(self.a(x)))
        return self.head(torch.relu(self.norm_b(self.b(x))).mean((2, 3)))


def batches(epoch: int = 0, count: int = 4, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Images with a bright half, and which half it is; the same for the same epoch."""
    generator = torch.Generator().manual_seed(epoch)
    made = []
    for _ in range(count):
        y = torch.randint(0, 2, (size,), generator=generator)
        x = torch.randn(size, 1, 6, 6, generator=generator)
        x[y == 1, :, :3] += 2
        made.append((x, y))
    return made


def train(model: nn.Module, optimizer, criterion=None, epoch: int = 0) -> None:
    """One epoch."""
    loss = functional.cross_entropy if criterion is None else criterion
    for x, y in batches(epoch):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
