"""What the benchmarks of pruners have in common: three nets, scanned digits, and a budget of training."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.digits import BATCH, Digits, accuracy, read_digits, train
from examples.resnet20 import ResNet20

__all__ = ["NETS", "Budget", "Digits", "LeNet", "SmallVGG", "accuracy", "dense_net", "loss_of", "read_digits"]


class LeNet(nn.Sequential):
    """LeCun, Bottou, Bengio, Haffner, 1998, for pictures of 8 x 8: two convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10),
        )  # fmt: skip


class SmallVGG(nn.Sequential):
    """Six convolutions with batch norms in the manner of Simonyan, Zisserman, ICLR 2015."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        before = 1
        for width in (32, 32, 0, 64, 64, 0, 96, 96):
            if width:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            else:
                layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


NETS: Final[dict[str, tuple[Callable[[], nn.Module], int, float]]] = {
    "LeNet": (LeNet, 20, 0.05),
    "VGG": (SmallVGG, 12, 0.05),
    "ResNet-20": (ResNet20, 12, 0.1),
}
"""By name how to make it, epochs of training, and the highest learning rate."""


def dense_net(name: str, seed: int, data: Digits) -> nn.Module:
    """A net, trained from a seed."""
    make, epochs, rate = NETS[name]
    torch.manual_seed(seed)
    model = make()
    train(model, data, epochs, rate, torch.Generator().manual_seed(seed))
    return model


def loss_of(output: Tensor, digits: Tensor) -> Tensor:
    """The loss that every method trains with."""
    return F.cross_entropy(output, digits, label_smoothing=0.05)


@dataclass
class Budget:
    """As many epochs of training as every method has, whoever asks for them: the pruner or the fine-tuning after it.

    The learning rate falls from the first epoch to the last as half a cosine.
    """

    data: Digits
    seed: int
    epochs: int
    rate: float = 0.03
    used: int = 0
    lesson: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """The loss of (output, digits, pictures), where it is not `loss_of` alone."""
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1000 + self.seed)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The one that every method trains with."""
        return torch.optim.SGD(model.parameters(), self.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def trainer(self, model: nn.Module, optimizer: Any, criterion: Any = None, epoch: int = 0) -> None:
        """An epoch, as pruners call it."""
        del epoch
        assert self.used < self.epochs, "the budget is spent"
        for group in optimizer.param_groups:
            group["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * self.used / self.epochs))
        self.used += 1
        model.train()
        order = torch.randperm(len(self.data.train_digits), generator=self.generator)
        for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            pictures, digits = self.data.train_pictures[chosen], self.data.train_digits[chosen]
            output = model(pictures)
            if criterion is None and self.lesson is not None:
                loss = self.lesson(output, digits, pictures)
            else:
                loss = (criterion or loss_of)(output, digits)
            loss.backward()
            optimizer.step()

    def spend(self, model: nn.Module, *pruners: Any) -> None:
        """Fine-tune for all epochs that are left."""
        optimizer = self.optimizer(model)
        while self.used < self.epochs:
            for pruner in pruners:
                pruner.update_epoch(self.used)
            self.trainer(model, optimizer)
