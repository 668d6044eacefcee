"""Nets whose statistics are known beforehand."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Counting", "Idle", "Replacing", "Sleeper", "Slow", "state_of"]


class Idle(nn.Module):
    """Of four channels the first is dead, the second constant, the third never above zero, the fourth alive."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.relu = nn.ReLU()
        with torch.no_grad():
            self.conv.weight[:, 0, 0, 0] = torch.tensor([0.0, 0.0, -1.0, 1.0])
            self.conv.bias[:] = torch.tensor([0.0, 2.5, -0.5, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


class Sleeper(nn.Module):
    """Takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


class Slow(nn.Module):
    """Sleeps itself, and twice within a module that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Sleeper(0.004)
        self.last = nn.Linear(3, 2)
        self.never = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.002)
        return self.last(self.inner(self.inner(x))) @ torch.ones(2, 2)


class Counting(nn.Module):
    """Writes into its buffer whenever it is called, draws random numbers, and drops out in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return functional.dropout(self.linear(x), training=self.training) + 0 * torch.rand(1)


class Replacing(nn.Module):
    """Puts another tensor in the place of its buffer whenever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.linear(x)


def state_of(model: nn.Module) -> tuple[dict[str, Tensor], list[bool], Tensor, int]:
    """All that must be the same afterwards: values, modes, the random state, and how many hooks there are."""
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    values = {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()}
    return values, [m.training for m in model.modules()], torch.get_rng_state(), hooks
