"""Hand-written nets with tensors beside their parameters: masks, indices, orders, caches, other types."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["BUFFERS"]


class ChannelMask(nn.Module):
    """Channels multiplied by a boolean buffer, all of it true, and by an integer one."""

    alive: Tensor
    sign: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.head = nn.Conv2d(12, 5, 1)
        self.register_buffer("alive", torch.ones(12, dtype=torch.bool))
        self.register_buffer("sign", torch.tensor([1, -1] * 6))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5, H, W)."""
        x = self.conv(image).masked_fill(~self.alive.view(1, -1, 1, 1), 0.0)
        return self.head(F.relu(x * self.sign[:, None, None]))


class BooleanIndex(nn.Module):
    """The channels that a boolean buffer picks: an index whose length is known only by its values."""

    picked: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(8, 16)
        self.head = nn.Linear(16, 5)
        self.register_buffer("picked", torch.tensor([True, True, False] * 4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        return self.head(F.relu(self.second(F.relu(self.first(x))[:, self.picked])))


class Permuted(nn.Module):
    """Channels put into another order by a buffer of indices, as coupling layers of flows do."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(12, 16)
        self.head = nn.Linear(16, 5)
        self.register_buffer("order", torch.arange(12).roll(5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        return self.head(F.relu(self.second(F.relu(self.first(x)).index_select(1, self.order).flip(1))))


class Cached(nn.Module):
    """In evaluation mode, a table derived from a parameter is kept from one call to the next."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.biases = nn.Parameter(torch.randn(5, 12))
        self.register_buffer("index", torch.tensor([0, 3, 1, 2, 4, 4, 0, 1]), persistent=False)
        self.head = nn.Linear(12, 5)
        self.cache: dict[str, Tensor] = {}

    def _table(self, x: Tensor) -> Tensor:
        if self.training:
            self.cache.clear()
            return self.biases[self.index]
        key = f"{x.device} {x.dtype}"
        if key not in self.cache:
            self.cache[key] = self.biases[self.index]
        return self.cache[key]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8, 7) to (B, 8, 5)."""
        return self.head(F.relu(self.enter(x) + self._table(x)))


class MixedTypes(nn.Module):
    """Buffers in half precision and integers beside parameters in full."""

    scale: Tensor
    shift: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(12, 16)
        self.head = nn.Linear(16, 5)
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 12).to(torch.bfloat16))
        self.register_buffer("shift", torch.linspace(-1.0, 1.0, 16).to(torch.float16))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        x = F.relu(self.first(x)) * self.scale.to(x.dtype)
        return self.head(F.relu(self.second(x) + self.shift.to(x.dtype)))


BUFFERS: dict[str, Builder] = {
    "channel-mask-buffer": lambda g: (ChannelMask(), normal(g, 2, 3, 8, 6)),
    "boolean-index": lambda g: (BooleanIndex(), normal(g, 3, 7)),
    "permuted-channels": lambda g: (Permuted(), normal(g, 3, 7)),
    "cached-table": lambda g: (Cached(), normal(g, 2, 8, 7)),
    "mixed-types": lambda g: (MixedTypes(), normal(g, 3, 7)),
}
