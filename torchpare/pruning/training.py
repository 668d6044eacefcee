"""The user's training, called by pruners that cannot decide without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import nn
from torch.optim import Optimizer

from torchpare.errors import ConfigError

__all__ = ["Training", "checked_batches", "in_order", "training_of"]


@dataclass(frozen=True)
class Training:
    """A function that trains a model for one epoch, and what it is called with.

    ``trainer(model, optimizer=..., criterion=..., epoch=...)``, by keywords; what it returns is not looked at.
    """

    trainer: Callable[..., Any]
    optimizer: Optimizer
    criterion: Any = None

    def epochs(self, model: nn.Module, count: int, what: str) -> Iterator[int]:
        """The numbers of epochs to train, with the model in training mode, and a progress bar on a terminal."""
        console = Console(stderr=True)
        with _training_mode(model):
            yield from track(range(count), what, console=console, disable=not console.is_terminal, transient=True)

    def run(self, model: nn.Module, epoch: int) -> None:
        """Train for one epoch."""
        self.trainer(model, optimizer=self.optimizer, criterion=self.criterion, epoch=epoch)


def training_of(name: str, trainer: Any, optimizer: Any, criterion: Any) -> Training | None:
    """The training that a constructor was given; None where the user trains.

    Raises:
        ConfigError: there is a trainer that cannot be called, or no optimizer for it.
    """
    if trainer is None:
        return None
    if not callable(trainer):
        raise ConfigError(f"{name}: trainer is a {type(trainer).__name__}; it is a function that trains the model for "
                          "an epoch, called as trainer(model, optimizer=..., criterion=..., epoch=...)")  # fmt: skip
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"{name}: a trainer needs the optimizer that it steps; give the third argument")
    return Training(trainer, optimizer, criterion)


def in_order(optimizer: Any, trainer: Any) -> tuple[Any, Any]:
    """``(optimizer, trainer)``; scripts of later versions give the trainer first, which is told by the types."""
    swapped = isinstance(trainer, Optimizer) and not isinstance(optimizer, Optimizer)
    return (trainer, optimizer) if swapped else (optimizer, trainer)


def checked_batches(name: str, key: str, value: Any) -> int:
    """A number of minibatches, epochs or rounds.

    Raises:
        ConfigError: it is not a whole number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: {key} is {value!r}; it is a whole number above 0")
    return value


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
