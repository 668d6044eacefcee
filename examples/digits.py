"""Scikit-learn's 1,797 scanned digits, and how a net learns them: nothing here knows of torchpare.

The scans come with scikit-learn's wheel: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

__all__ = ["BATCH", "Digits", "Listener", "accuracy", "read_digits", "scores", "train"]

BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Pictures ``(N, 1, 8, 8)`` of mean 0 and deviation 1, and the digits ``(N,)`` that they show."""

    train_pictures: Tensor
    train_digits: Tensor
    test_pictures: Tensor
    test_digits: Tensor


class Listener(Protocol):
    """Who wants to know how far training is; every pruner does."""

    def update_epoch(self, epoch: int) -> None:
        """An epoch begins."""

    def step(self) -> None:
        """A minibatch was learnt."""


def read_digits() -> Digits:
    """A quarter is for testing, with every digit in its share; the split is the same every time."""
    pixels, digits = load_digits(return_X_y=True)
    parts = train_test_split(pixels.reshape(-1, 1, 8, 8), digits, test_size=0.25, stratify=digits, random_state=0)
    train_pictures, test_pictures, train_digits, test_digits = (torch.from_numpy(part) for part in parts)
    mean, deviation = train_pictures.mean(), train_pictures.std()

    def normalised(x: Tensor) -> Tensor:
        return ((x - mean) / deviation).float()

    return Digits(normalised(train_pictures), train_digits, normalised(test_pictures), test_digits)


def train(
    model: nn.Module,
    data: Digits,
    epochs: int,
    rate: float,
    generator: torch.Generator,
    *,
    listener: Listener | None = None,
    after_epoch: Callable[[float], None] = lambda _: None,
) -> list[float]:
    """Learn for some epochs: SGD with momentum, and a rate that rises once and falls once.

    Args:
        model: learns in place.
        data: what there is to learn.
        epochs: how many times to go through it.
        rate: the highest learning rate.
        generator: shuffles and shifts the pictures.
        listener: told of every epoch and minibatch.
        after_epoch: called with the test accuracy.

    Returns:
        the test accuracy after each epoch. It is only told; it chooses nothing.
    """
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batches = len(data.train_digits) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
    history = []
    for epoch in range(epochs):
        if listener:
            listener.update_epoch(epoch)
        model.train()
        order = torch.randperm(len(data.train_digits), generator=generator)
        for chosen in order[: batches * BATCH].split(BATCH):
            pictures = _shifted(data.train_pictures[chosen], generator)
            optimizer.zero_grad()
            F.cross_entropy(model(pictures), data.train_digits[chosen], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
            if listener:
                listener.step()
        history.append(accuracy(model, data))
        after_epoch(history[-1])
    return history


@torch.inference_mode()
def scores(model: nn.Module, pictures: Tensor) -> Tensor:
    """What the model says of each picture, ``(N, 10)``, in evaluation mode."""
    return model.eval()(pictures)


def accuracy(model: nn.Module, data: Digits) -> float:
    """The share of test pictures that the model reads rightly."""
    return float((scores(model, data.test_pictures).argmax(1) == data.test_digits).float().mean())


def _shifted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Every picture of the batch moved by at most one pixel each way, by itself."""
    number, _, height, width = pictures.shape
    padded = F.pad(pictures, (1, 1, 1, 1), value=float(pictures.min()))
    down, right = torch.randint(0, 3, (2, number, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(number)[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
