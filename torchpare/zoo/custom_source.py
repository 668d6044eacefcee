"""Hand-written nets whose source makes it hard: literal sizes, in-place writes, branches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["SOURCE"]


class HardCodedView(nn.Module):
    """Flattens with a number written in the source."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, 2, 1)
        self.second = nn.Conv2d(10, 16, 3, 2, 1)
        self.fc = nn.Linear(256, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, 16, 16) to (B, 5)."""
        x = F.relu(self.second(F.relu(self.first(image)))).view(-1, 256)
        return self.head(F.relu(self.fc(x)))


class FlattenedMap(nn.Module):
    """Flattens by what it finds, and pools one branch by a literal slice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, 4, 1)
        self.fc = nn.Linear(12 * 4 * 4, 20)
        self.side = nn.Linear(6, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, 16, 16) to (B, 5)."""
        x = F.relu(self.conv(image))
        return self.head(F.relu(self.fc(x.view(x.size(0), -1)) + self.side(x[:, :6].mean((2, 3)))))


class AttributeSlice(nn.Module):
    """The first channels, as many as an attribute says, take another way."""

    def __init__(self) -> None:
        super().__init__()
        self.part = 4
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.partial = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5, H, W)."""
        x = F.relu(self.stem(image))
        x = torch.cat([self.partial(x[:, : self.part]), x[:, self.part :]], dim=1)
        return self.head(F.relu(x))


class InPlace(nn.Module):
    """Everything that can be written in place is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(12, 12)
        self.scale = nn.Parameter(torch.randn(12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 7) to (B, L, 5)."""
        hidden = self.first(x).relu_()
        other = self.second(hidden)
        other.add_(hidden).mul_(self.scale)
        other.transpose_(0, 1)
        other = other.transpose(0, 1).clone()
        other[:, :2] = 0.0
        other[:, -1] += other[:, 2]
        return self.head(other.clamp_(min=-3.0).sub_(0.5))


class WrittenSlices(nn.Module):
    """Two halves computed apart and written into one tensor by channel slices."""

    def __init__(self) -> None:
        super().__init__()
        self.part = 8
        self.left = nn.Linear(7, 8)
        self.right = nn.Linear(7, 8)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        joined = x.new_zeros(x.shape[0], 2 * self.part)
        joined[:, : self.part] = self.left(x).relu()
        joined[:, self.part :] = self.right(x).tanh()
        return self.head(joined)


class Branching(nn.Module):
    """The way depends on a value in a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.warm = nn.Linear(12, 16)
        self.cold = nn.Linear(12, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        hidden = F.relu(self.enter(x))
        branch = self.warm if x.sum() > 0 else self.cold
        return self.head(F.relu(branch(hidden)))


class StochasticDepth(nn.Module):
    """Blocks that training skips at random; evaluation never does. Also dropout of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(12, 12, 3, padding=1) for _ in range(2)])
        self.channels = nn.Dropout2d(0.2)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(12, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        x = self.stem(image)
        for block in self.blocks:
            y = F.relu(block(self.channels(x)))
            if self.training:
                y = y * (torch.rand(len(y), 1, 1, 1) < 0.8) / 0.8
            x = x + y
        return self.head(self.drop(x.mean((2, 3))))


class Affine(nn.Module):
    """Reads its width from a weight's shape, and repeats, pads and expands by it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        width = self.first.weight.shape[0]
        hidden = F.relu(self.first(x)).reshape(-1, width).repeat(1, 2)
        return self.head(F.pad(F.relu(self.second(hidden)), (1, 1))[:, 1:-1])


class Halves(nn.Module):
    """Halves cut by `int`, a scale that nobody sees to be a width, a state as the oldest constructor makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 16)
        self.left = nn.Linear(8, 12)
        self.right = nn.Linear(8, 12)
        self._width = 12
        self.cell = nn.GRUCell(12, self._width)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        x = F.relu(self.enter(x))
        half = int(x.shape[-1] / 2)
        x = F.relu(self.left(x[:, :half]) + self.right(x[:, half:]))
        state = self.cell(x, x.new(x.size(0), self._width).zero_())
        return self.head(x * (1.0 / x.shape[-1]) + state)


class SettingsInDict(nn.Module):
    """Attention whose numbers lie in a dict that it was configured with."""

    def __init__(self) -> None:
        super().__init__()
        self.cfg = {"heads": 4, "width": 6, "scale": 0.3}
        self.qkv = nn.Linear(7, 72)
        self.out = nn.Linear(24, 14)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 7) to (B, L, 5)."""
        batch, length, _ = x.shape
        heads, width = int(self.cfg["heads"]), int(self.cfg["width"])
        q, k, v = self.qkv(x).view(batch, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.transpose(-1, -2) * self.cfg["scale"], dim=-1)
        return self.head(F.relu(self.out((scores @ v).transpose(1, 2).reshape(batch, length, heads * width))))


SOURCE: dict[str, Builder] = {
    "hard-coded-view": lambda g: (HardCodedView(), normal(g, 2, 3, 16, 16)),
    "flattened-map": lambda g: (FlattenedMap(), normal(g, 2, 3, 16, 16)),
    "attribute-slice": lambda g: (AttributeSlice(), normal(g, 2, 3, 8, 6)),
    "in-place": lambda g: (InPlace(), normal(g, 2, 9, 7)),
    "written-slices": lambda g: (WrittenSlices(), normal(g, 3, 7)),
    "data-dependent-branch": lambda g: (Branching(), normal(g, 3, 7)),
    "stochastic-depth": lambda g: (StochasticDepth(), normal(g, 2, 3, 8, 6)),
    "width-from-weight": lambda g: (Affine(), normal(g, 3, 7)),
    "counted-halves": lambda g: (Halves(), normal(g, 3, 7)),
    "settings-in-dict": lambda g: (SettingsInDict(), normal(g, 2, 9, 7)),
}
