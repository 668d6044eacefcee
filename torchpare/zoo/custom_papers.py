"""Hand-written nets after well-known papers, as people write them who need one and have no library for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["PAPERS"]


class TextCNN(nn.Module):
    """Kernels as wide as a word's embedding: Kim, "Convolutional Neural Networks for Sentence Classification"."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.convs = nn.ModuleList([nn.Conv2d(1, width, (size, 12)) for size, width in ((2, 8), (3, 10), (4, 14))])
        self.head = nn.Linear(32, 5)

    def forward(self, words: Tensor) -> Tensor:
        """(B, L) to (B, 5)."""
        table = self.embed(words).unsqueeze(1)
        maps = [F.relu(conv(table)).squeeze(3) for conv in self.convs]
        return self.head(torch.cat([F.max_pool1d(x, x.size(2)).squeeze(2) for x in maps], dim=1))


class SpatialGating(nn.Module):
    """Tokens mixed by a kernel of one, which reads features as space: Liu et al., "Pay Attention to MLPs"."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, 14)
        self.norm = nn.LayerNorm(14)
        self.enter = nn.Linear(14, 40)
        self.norm_gate = nn.LayerNorm(20)
        self.mix = nn.Conv1d(9, 9, 1)
        self.leave = nn.Linear(20, 14)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 9, 7) to (B, 5)."""
        x = self.embed(x)
        value, gate = F.gelu(self.enter(self.norm(x))).chunk(2, dim=-1)
        x = x + self.leave(value * self.mix(self.norm_gate(gate)))
        return self.head(x.mean(1))


@torch.jit.script
def gated(x: Tensor, condition: Tensor, width: int) -> Tensor:
    """Half of a sum gates the other, fused by a compiler."""
    both = x + condition
    return torch.tanh(both[:, :width]) * torch.sigmoid(both[:, width:])


class ConditionedWave(nn.Module):
    """Dilated convolutions with a scripted gate: van den Oord et al., "WaveNet", as in WaveGlow and VITS."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.depth = 10, 3
        self.start = nn.Conv1d(4, self.width, 1)
        self.condition = nn.Conv1d(6, 2 * self.width * self.depth, 1)
        self.dilated = nn.ModuleList(
            [nn.Conv1d(self.width, 2 * self.width, 3, padding=2**i, dilation=2**i) for i in range(self.depth)]
        )
        self.rest = nn.ModuleList([nn.Conv1d(self.width, 2 * self.width, 1) for _ in range(self.depth)])
        self.end = nn.Conv1d(self.width, 3, 1)

    def forward(self, wave: Tensor, spectrum: Tensor) -> Tensor:
        """(B, 4, L) and (B, 6, L) to (B, 3, L)."""
        wave = self.start(wave)
        total, conditions = torch.zeros_like(wave), self.condition(spectrum)
        for number, (dilated, rest) in enumerate(zip(self.dilated, self.rest, strict=True)):
            start = number * 2 * self.width
            acts = gated(dilated(wave), conditions[:, start : start + 2 * self.width], self.width)
            both = rest(acts)
            wave, total = wave + both[:, : self.width], total + both[:, self.width :]
        return self.end(total)


class ReadLines(nn.Module):
    """Columns of a normed map read both ways: Shi et al., "An End-to-End Trainable Neural Network" (CRNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 14, (4, 3), padding=(0, 1)), nn.BatchNorm2d(14), nn.ReLU()),
        )
        self.read = nn.LSTM(14, 10, bidirectional=True)
        self.head = nn.Linear(20, 7)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, 8, W) to (W / 2, B, 7)."""
        columns = self.conv(image).squeeze(2).permute(2, 0, 1)
        return F.log_softmax(self.head(self.read(columns)[0]), dim=2)


class Maxout(nn.Module):
    """Units that are the largest of some pieces: Goodfellow et al., "Maxout Networks"."""

    def __init__(self) -> None:
        super().__init__()
        self.units, self.pieces = 12, 4
        self.first = nn.Linear(7, self.units * self.pieces)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        return self.head(self.first(x).view(-1, self.units, self.pieces).max(-1)[0])


class DynamicConvolution(nn.Module):
    """A kernel for each image, mixed out of a few: Chen et al., "Dynamic Convolution: Attention over Kernels"."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 14
        self.stem = nn.Sequential(nn.Conv2d(3, 10, 3, stride=2), nn.BatchNorm2d(10), nn.SiLU())
        self.attend = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3), nn.Softmax(1)
        )
        self.kernels = nn.Parameter(torch.randn(3, self.width, 10, 3, 3) / 10)
        self.head = nn.Linear(self.width, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        x = self.stem(image)
        batch, channels, rows, columns = x.shape
        kernels = (self.attend(x) @ self.kernels.flatten(1)).view(-1, channels, 3, 3)
        mixed = F.conv2d(x.reshape(1, -1, rows, columns), kernels, padding=1, groups=batch)
        return self.head(mixed.view(batch, self.width, rows, columns).mean((2, 3)))


def _words(generator: torch.Generator) -> Tensor:
    return torch.randint(0, 30, (2, 9), generator=generator)


PAPERS: dict[str, Builder] = {
    "text-cnn": lambda g: (TextCNN(), _words(g)),
    "spatial-gating": lambda g: (SpatialGating(), normal(g, 2, 9, 7)),
    "scripted-gate": lambda g: (ConditionedWave(), (normal(g, 2, 4, 15), normal(g, 2, 6, 15))),
    "line-reader": lambda g: (ReadLines(), normal(g, 2, 1, 8, 22)),
    "maxout": lambda g: (Maxout(), normal(g, 3, 7)),
    "dynamic-convolution": lambda g: (DynamicConvolution(), normal(g, 2, 3, 12, 9)),
}
