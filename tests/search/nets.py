"""A trained net, what it is worth, and how it is trained a little: importable, so that other processes can."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.pruning.training import Small, batches, train

__all__ = ["CONVOLUTIONS", "Chain", "accuracy", "example", "likelihood", "trained", "trainer", "tune"]

CONVOLUTIONS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]


class Chain(nn.Module):
    """Three convolutions of different widths, so that layers cost differently, the last two around a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.stem = nn.Conv2d(16, 6, 1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(torch.relu(self.norm(self.wide(x))))
        x = torch.relu(x + self.inner(torch.relu(x)))
        return self.head(x.mean((2, 3)))


def trained(kind: type[nn.Module] = Small, epochs: int = 4) -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    model = kind()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        train(model, optimizer, epoch=epoch)
    return model.eval()


def example() -> Tensor:
    """One batch."""
    return batches()[0][0]


def accuracy(model: nn.Module) -> float:
    """The share of right answers on data that training did not see."""
    model.eval()
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).float().mean() for x, y in batches(99)]
    return float(torch.stack(right).mean())


def likelihood(model: nn.Module) -> float:
    """The mean log likelihood there: finer than the accuracy, so that no two candidates are worth the same."""
    model.eval()
    with torch.no_grad():
        losses = [functional.cross_entropy(model(x), y) for x, y in batches(99)]
    return -float(torch.stack(losses).mean())


def tune(model: nn.Module) -> None:
    """A step of training on data drawn from the random state."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x = torch.randn(8, 1, 6, 6)
    y = torch.randint(0, 2, (8,))
    x[y == 1, :, :3] += 2
    functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def trainer(model: nn.Module, optimizer, criterion, epoch: int) -> None:
    """An epoch for the pruners that train by themselves."""
    train(model, optimizer, criterion, epoch)
