"""The stage ``prune``: any pruner, with the recipe's data, metric and optimizer where its constructor takes them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import torchpare.pruning as room
from torchpare.attach import is_attached
from torchpare.errors import ConfigError, TorchpareError
from torchpare.pruning import ADMMPruner, GradualPruner, LotteryTicketPruner, Pruner, SlimPruner
from torchpare.pruning.data_driven import DataDrivenPruner
from torchpare.pruning.groups import is_incomplete, try_to_complete
from torchpare.recipe.batches import Loss
from torchpare.recipe.job import Job, Outcome
from torchpare.recipe.named import class_of
from torchpare.recipe.optimizers import make_optimizer
from torchpare.recipe.replay import Replay
from torchpare.recipe.settings import PruneStage
from torchpare.recipe.training import Trainer, nothing
from torchpare.search import SearchPruner
from torchpare.speedup import plan

__all__ = ["PLAN", "make_pruner", "run"]

PLAN = "plan"
"""The pruner that is no class: structures go at once."""


def run(settings: PruneStage, job: Job) -> Outcome:
    """Mask the model.

    Raises:
        ConfigError: the pruner cannot be made of these words.
        TorchpareError: it waits for what a recipe does not give it.
    """
    if settings.pruner == PLAN:
        return _planned(settings, job)
    replay = Replay(job.folder)
    pruner, given = make_pruner(settings, job, replay)
    replay.on = _can_be_replayed(pruner)
    job.progress(f"{settings.pruner} at work", 0.0)
    pruner.compress()
    if isinstance(pruner, LotteryTicketPruner):
        _draw_tickets(pruner, given["optimizer"], settings, job, replay)
    if pruner.waiting:
        raise TorchpareError(f"{settings.pruner} is not done: {pruner.waiting}")
    if is_incomplete(job.model):
        try_to_complete(job.model, job.example)
    job.model.zero_grad(set_to_none=True)
    layers = [{"name": name, "left": left, "of": of} for name, (left, of) in pruner.get_pruned_weights().items()]
    details: dict[str, Any] = {"pruner": settings.pruner, "layers": layers}
    if isinstance(pruner, SearchPruner):
        details["config_list"] = pruner.get_config_list()
    return Outcome(job.model, job.quantized, details)


def _planned(settings: PruneStage, job: Job) -> Outcome:
    """Take out what entries ask for by structure; the model is small at once."""
    if settings.arguments:
        raise ConfigError(f"the pruner 'plan' takes no arguments, and was given {', '.join(settings.arguments)}")
    if is_attached(job.model):
        raise ConfigError("there are masks that were not cut out: a stage 'shrink' comes before the pruner 'plan'")
    job.progress("taking out structures, and comparing", 0.1)
    report = plan(job.model, settings.config_list, job.example).apply()
    return Outcome(job.model, job.quantized, {"shrink": report.to_dict(), "says": str(report).splitlines()})


def make_pruner(settings: PruneStage, job: Job, replay: Replay) -> tuple[Pruner, dict[str, Any]]:
    """The pruner, which has only read the model so far, and what it was given.

    Raises:
        ConfigError: it cannot be made of these words.
    """
    cls = class_of(settings.pruner, room, Pruner, "pruner")
    given = _arguments(cls, settings, job, replay)
    try:
        return cls(job.model, settings.config_list, **given), given
    except TypeError as error:
        raise ConfigError(f"{settings.pruner} does not take these arguments: {error}") from error


def _arguments(cls: Any, settings: PruneStage, job: Job, replay: Replay) -> dict[str, Any]:
    """What a pruner's constructor takes of what the recipe has; what the user wrote goes before."""
    takes = _takes(cls)
    given: dict[str, Any] = {}
    materials = job.materials
    if "dummy_input" in takes:
        given["dummy_input"] = job.example
    if "trainer" in takes and materials.train is not None:
        given["trainer"] = _OneEpoch(job.trainer(settings), replay, job.progress)
    if "optimizer" in takes and (materials.train is not None or cls is LotteryTicketPruner):
        given["optimizer"] = make_optimizer(settings.optimizer, job.model)
    if "criterion" in takes:
        given["criterion"] = materials.loss
    if "evaluator" in takes:
        given["evaluator"] = materials.score()
    tuning = next((name for name in ("short_term_fine_tuner", "finetuner", "fine_tuner") if name in takes), None)
    if tuning is not None and (settings.fine_tune_epochs or tuning == "short_term_fine_tuner"):
        given[tuning] = _FineTuner(job.trainer(settings), settings)
    for name in ("experiment_data_dir", "output_dir"):
        if name in takes:
            given[name] = str(job.folder)
    return {**given, **settings.arguments}


def _takes(cls: Any) -> set[str]:
    """The names that a constructor takes, also those of the ``**options`` that it hands on.

    What it hands on by itself, as a pruner in rounds does its criterion, is none of them.
    """
    found: set[str] = set()
    for parameter in inspect.signature(cls.__init__).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found.add(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD and str(parameter.annotation).startswith("Unpack["):
            options = str(parameter.annotation).removeprefix("Unpack[").removesuffix("]")
            found.update(cls.__init__.__globals__[options].__annotations__)
    return found


def _can_be_replayed(pruner: Pruner) -> bool:
    """Whether a pruner knows nothing of a training but the weights and masks that come out of it.

    Criteria that watch gradients or activations, and scores that are trained along, have to see every minibatch.
    """
    if not isinstance(pruner, GradualPruner | ADMMPruner | SlimPruner | LotteryTicketPruner):
        return False
    return not isinstance(getattr(pruner, "ranking", None), DataDrivenPruner)


def _draw_tickets(
    pruner: LotteryTicketPruner, optimizer: torch.optim.Optimizer, settings: PruneStage, job: Job, replay: Replay
) -> None:
    """Every round of a lottery ticket: prune, rewind, train; the last prunes, and what follows trains it."""
    one = _OneEpoch(job.trainer(settings), replay, job.progress)
    for number in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        if number == pruner.rounds:
            return
        for epoch in range(settings.epochs):
            pruner.update_epoch(epoch)
            one(job.model, optimizer=optimizer, epoch=epoch)


@dataclass(eq=False)
class _OneEpoch:
    """``trainer(model, optimizer=..., criterion=..., epoch=...)``, as pruners call it; each call is a piece of work."""

    trainer: Trainer
    replay: Replay
    progress: Callable[[str, float], None]
    calls: int = 0

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Loss | None = None,
        epoch: int | None = None,
    ) -> None:
        del epoch  # pruners count in circles
        self.calls += 1
        drawn = int(torch.randint(2**31, ()))  # not the calls: a search that goes on leaves out what its journal has
        if self.replay.done(self.calls, model, optimizer):
            return
        said = f"training, epoch {self.calls}"
        self.trainer.tick = lambda share: self.progress(said, share)
        loss = self.trainer.epoch(model, optimizer, self.calls, drawn=drawn, criterion=criterion)
        self.progress(f"{said}: loss {loss:.4g}", 1.0)
        self.replay.keep(self.calls, model, optimizer)


@dataclass(frozen=True, eq=False)
class _FineTuner:
    """Trains a candidate a little."""

    trainer: Trainer
    settings: PruneStage

    def __call__(self, model: nn.Module) -> None:
        trainer = copy.copy(self.trainer)
        trainer.tick = nothing
        optimizer = make_optimizer(self.settings.optimizer, model)
        for epoch in range(max(self.settings.fine_tune_epochs, 1)):
            trainer.epoch(model, optimizer, epoch)
