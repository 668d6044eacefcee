"""What examples/digits.yaml names: a trained ResNet-20, batches of scanned digits, and how many it reads rightly."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from digits import BATCH, accuracy, read_digits, train
from resnet20 import ResNet20
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchpare

__all__ = ["batches", "pictures", "test_accuracy", "trained"]


def trained(width: int = 48, epochs: int = 6) -> ResNet20:
    """A ResNet-20 that was trained, which takes a minute; the weights are kept in ``runs`` for the next time."""
    path = Path(os.environ.get("DIGITS_RUNS", "runs")) / f"digits-resnet20-{width}-{epochs}.safetensors"
    torch.manual_seed(0)
    model = ResNet20(width)
    if path.exists():
        return torchpare.load(model, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    train(model, read_digits(), epochs, 0.1, torch.Generator().manual_seed(0))
    torchpare.save(model.eval(), path)
    return model


def batches(count: int | None = None) -> DataLoader[tuple[Tensor, ...]]:
    """Pictures and digits to learn from, in another order every time."""
    data = read_digits()
    return DataLoader(TensorDataset(data.train_pictures[:count], data.train_digits[:count]), BATCH, shuffle=True,
                      drop_last=True)  # fmt: skip


def pictures() -> list[Tensor]:
    """Pictures to calibrate with."""
    return list(read_digits().train_pictures[:256].split(BATCH))


def test_accuracy(model: nn.Module) -> float:
    """The share of test digits that are read rightly."""
    return accuracy(model, read_digits())
