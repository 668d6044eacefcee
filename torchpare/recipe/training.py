"""The training loop of recipes: a checkpoint after every epoch, and every epoch's random numbers its own.

What an epoch draws is seeded by the recipe's seed, the stage and the number of the epoch. So a training that was killed
and goes on from its last checkpoint ends with the same bits as one that was not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from torchpare.errors import ConfigError, TorchpareError
from torchpare.recipe.batches import Loss, arguments_of, begin_epoch, on, taken_by
from torchpare.recipe.optimizers import make_optimizer
from torchpare.recipe.schedules import factor
from torchpare.recipe.settings import FinetuneStage, QuantizeStage, Training
from torchpare.recipe.training_state import Epoch, TrainingState
from torchpare.search.journal import digest
from torchpare.search.trial import seeded

__all__ = ["Listener", "Teaching", "Trainer", "nothing"]

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who wants to know how far training is: every pruner and quantizer."""

    def update_epoch(self, epoch: int) -> None:
        """An epoch begins."""

    def step(self) -> None:
        """A minibatch was learnt."""


class Teaching(Protocol):
    """What a student learns from its teachers; see :class:`torchpare.distillation.Distiller`."""

    def __call__(self, student_output: Any, *inputs: Any, **named_inputs: Any) -> Tensor:
        """The loss of what the student said of these inputs."""
        ...

    def close(self) -> None:
        """Let go of the student."""


def nothing(share: float) -> None:
    """Tell nobody. A function with a name, so that a trainer can go to other processes."""
    del share


@dataclass(eq=False)
class Trainer:
    """Trains a model on the recipe's data, epoch by epoch.

    Attributes:
        batches: that can be gone through again and again.
        loss: of an output and a batch.
        settings: what the stage says about training.
        device: where the model is.
        key: names the training: seeds what it draws.
        teacher: makes what adds the loss of a distillation; called when training begins.
        task: what the loss on the targets is multiplied by.
        tick: called after every minibatch with the share of the epoch that is done.
    """

    batches: Iterable[Any]
    loss: Loss
    settings: Training
    device: str
    key: str
    teacher: Callable[[], Teaching] | None = None
    task: float = 1.0
    tick: Callable[[float], None] = nothing
    teaching: Teaching | None = field(default=None, init=False)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer that the stage asks for, over the model's parameters."""
        return make_optimizer(self.settings.optimizer, model)

    def epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        number: int,
        *,
        drawn: int | None = None,
        criterion: Loss | None = None,
        after_step: Callable[[], None] = lambda: None,
    ) -> float:
        """Train for one epoch; returns the mean loss.

        Args:
            model: learns in place.
            optimizer: steps it.
            number: of the epoch: seeds what it draws.
            drawn: seeds that in its place.
            criterion: in place of the trainer's loss.
            after_step: called after each step of the optimizer.

        Raises:
            TorchpareError: the loss is not finite, or there are no batches.
        """
        model.train()
        own = number if drawn is None else drawn
        seed = int(digest(self.key, own)[:8], 16)
        begin_epoch(self.batches, own, seed)
        losses: list[Tensor] = []
        with seeded(seed):
            optimizer.zero_grad()
            waiting = 0
            for batch, share in _with_share(self.batches):
                loss = self._loss(model, on(self.device, batch), criterion or self.loss)
                (loss / self.settings.accumulate).backward()
                losses.append(loss.detach())
                waiting += 1
                if waiting == self.settings.accumulate:
                    self._step(model, optimizer, after_step)
                    waiting = 0
                self.tick(share)
            if waiting:  # the last batches of an epoch are learnt too, each with the weight of all others
                self._step(model, optimizer, after_step)
        if not losses:
            raise ConfigError("the training data holds no batches")
        mean = float(torch.stack(losses).double().mean())
        if not math.isfinite(mean):
            raise TorchpareError(f"training diverged: the mean loss of epoch {number} is {mean}; lower the learning "
                                 "rate (optimizer: {lr: ...}), or set clip_norm")  # fmt: skip
        return mean

    def run(
        self,
        model: nn.Module,
        epochs: int,
        folder: Path | None,
        *,
        listeners: Sequence[Listener] = (),
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        after_epoch: Callable[[int, Epoch], None] = lambda _number, _epoch: None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> list[Epoch]:
        """Train for some epochs by the stage's schedule; goes on from the checkpoint in a folder, if there is one.

        Args:
            model: learns in place.
            epochs: how many.
            folder: where the checkpoint lies; None keeps none.
            listeners: told of every epoch and step.
            evaluate: called after every epoch.
            after_epoch: called with what each came to, also those of before.
            optimizer: in place of a new one.
        """
        settings = self.settings
        assert isinstance(settings, FinetuneStage | QuantizeStage)
        optimizer = self.optimizer(model) if optimizer is None else optimizer
        total = epochs * math.ceil(_length(self.batches) / settings.accumulate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: factor(settings.schedule, step, total, settings.warmup)
        )
        decay = settings.ema if isinstance(settings, FinetuneStage) else None
        averaged = None if decay is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        state = TrainingState(model, optimizer, schedule, averaged, folder, f"{self.key} {epochs}")
        history = state.read()

        def after_step() -> None:
            schedule.step()
            if averaged is not None:
                averaged.update_parameters(model)
            for listener in listeners:
                listener.step()

        for number, epoch in enumerate(history):
            after_epoch(number, epoch)
        self.teaching = None if self.teacher is None else self.teacher()  # after the copy that is averaged
        try:
            for number in range(len(history), epochs):
                for listener in listeners:
                    listener.update_epoch(number)
                loss = self.epoch(model, optimizer, number, after_step=after_step)
                judged = model if averaged is None else averaged.module
                history.append(Epoch(loss, {} if evaluate is None else evaluate(judged)))
                state.write(history)
                after_epoch(number, history[-1])
        finally:
            if self.teaching is not None:
                self.teaching.close()
                self.teaching = None
        if averaged is not None:
            _take_over(model, averaged.module)
        return history

    def try_out(self, model: nn.Module) -> None:
        """See that a batch has a loss, and that batches can be counted; the model may be left with other statistics.

        Raises:
            ConfigError: there is no batch, or batches cannot be counted.
        """
        seed = int(digest(self.key, "first")[:8], 16)
        begin_epoch(self.batches, 0, seed)
        model.train()
        with seeded(seed), torch.no_grad():
            for batch, _ in _with_share(self.batches):
                self._loss(model, on(self.device, batch), self.loss)
                return
        raise ConfigError("the training data holds no batches")

    def _loss(self, model: nn.Module, batch: Any, criterion: Loss) -> Tensor:
        args, kwargs = arguments_of(batch, taken_by(model))
        device = torch.device(self.device).type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            output = model(*args, **kwargs)
            if self.teaching is None:
                return criterion(output, batch)
            taught = self.teaching(output, *args, **kwargs)
            return taught + self.task * criterion(output, batch) if self.task else taught

    def _step(self, model: nn.Module, optimizer: torch.optim.Optimizer, after: Callable[[], None]) -> None:
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        after()


def _with_share(batches: Iterable[Any]) -> Iterable[tuple[Any, float]]:
    length = _length(batches)
    for number, batch in enumerate(batches, 1):
        yield batch, number / length


def _length(batches: Any) -> int:
    """How many batches an epoch has.

    Raises:
        ConfigError: they cannot be counted beforehand.
    """
    try:
        return max(len(batches), 1)
    except TypeError as error:
        raise ConfigError(f"the training data is a {type(batches).__name__} without a length, so that no learning rate "
                          "can be scheduled: give a list or a DataLoader that knows its length") from error  # fmt: skip


@torch.no_grad()
def _take_over(model: nn.Module, averaged: nn.Module) -> None:
    """Give a model the averaged parameters; buffers stay the model's own."""
    for mine, theirs in zip(model.parameters(), averaged.parameters(), strict=True):
        mine.copy_(theirs)
