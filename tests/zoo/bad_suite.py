"""A suite of tiny models, each of which goes wrong in its own way; processes load it by name, like the real ones."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS = 8


class Net(nn.Module):
    """Two convolutions with a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS)
        self.second, self.head = nn.Conv2d(CHANNELS, CHANNELS, 3), nn.Linear(CHANNELS, 5)

    @property
    def is_small(self) -> bool:
        return not repr(self.first).startswith(f"Conv2d(3, {CHANNELS},")  # a text: nothing of it is followed

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.relu(self.second(torch.relu(self.norm(self.first(x))))).mean((2, 3)))


class NotFinite(Net):
    def forward(self, x):
        return super().forward(x) / 0


class Endless(Net):
    """Infinite in float32 once it is small; the proof is in float64."""

    def forward(self, x):
        out = super().forward(x)
        return out / 0 if self.is_small and out.dtype == torch.float32 else out


class Forgetful(Net):
    """A number that no file holds."""

    made = 0

    def __init__(self):
        super().__init__()
        type(self).made += 1
        self.factor = 1.0 + self.made

    def forward(self, x):
        return super().forward(x) * self.factor


class EvaluatesOnly(Net):
    """Trains only while it is large."""

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and self.is_small:
            raise ValueError("too small to train")
        return super().forward(x)


class NeverTrains(Net):
    def forward(self, x):
        if torch.is_grad_enabled():
            raise ValueError("no training here")
        return super().forward(x)


class NeverTrainsInTraining(Net):
    def forward(self, x):
        if self.training:
            raise ValueError("evaluation only")
        return super().forward(x)


class NoSmallOnnx(Net):
    def forward(self, x):
        if torch.compiler.is_exporting() and self.is_small:
            raise ValueError("too small to export")
        return super().forward(x)


class NoOnnx(Net):
    def forward(self, x):
        if torch.compiler.is_exporting():
            raise ValueError("no export here")
        return super().forward(x)


class Deaf(Net):
    """Its channels reach the output with nothing."""

    def forward(self, x):
        return 0 * super().forward(x) + x.mean((1, 2, 3))[:, None]


class Fixed(nn.Linear):
    """All it has is inputs and outputs."""

    def __init__(self):
        super().__init__(6, 5)

    def forward(self, x):
        return super().forward(x[:, 0, 0])


def broken() -> nn.Module:
    raise RuntimeError("no such weights\nin two lines")


def hangs() -> nn.Module:
    time.sleep(600)
    raise AssertionError("it ought to have been killed")


def dies() -> nn.Module:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it ought to be dead")


def leaves() -> nn.Module:
    sys.stderr.write("famous last words")
    sys.stderr.flush()
    os._exit(3)


MAKERS = {
    "good": Net,
    "broken": broken,
    "not-finite": NotFinite,
    "hangs": hangs,
    "dies": dies,
    "leaves": leaves,
    "endless": Endless,
    "forgetful": Forgetful,
    "evaluates-only": EvaluatesOnly,
    "never-trains": NeverTrains,
    "never-trains-in-training": NeverTrainsInTraining,
    "no-small-onnx": NoSmallOnnx,
    "no-onnx": NoOnnx,
    "deaf": Deaf,
    "fixed": Fixed,
}
NAMES = tuple(MAKERS)


def build(name: str) -> tuple[nn.Module, Tensor]:
    return MAKERS[name]().eval(), torch.randn(2, 3, 6, 6)
