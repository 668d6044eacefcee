"""A small net, a few steps of training and of calibration, for tests of every quantizer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Net", "batch", "train"]


class Net(nn.Module):
    """A residual, a norm, a transposed and a grouped convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.fc = nn.Linear(6, 4)

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Net:
        """One in evaluation mode, with a state."""
        net = cls()
        net.load_state_dict(state)
        return net.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.conv2(x) + x)
        return self.fc(self.up(x).relu().mean((2, 3)))


def batch(seed: int = 0, size: int = 8) -> tuple[Tensor, Tensor]:
    """Pictures and their classes; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 6, 6, generator=generator), torch.randint(0, 4, (size,), generator=generator)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, quantizer: Any = None, steps: int = 3
) -> None:
    """A few steps, as users write them."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for at in range(steps):
        x, y = batch(at)
        x = x.to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if quantizer is not None:
            quantizer.step()
