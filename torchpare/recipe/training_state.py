"""All that a training is, as one file after every epoch, so that it goes on where it was killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchpare.errors import FileError
from torchpare.files.atomic import atomic_write

__all__ = ["Epoch", "TrainingState"]


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training came to."""

    loss: float
    """The mean over its minibatches."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the model after it."""


@dataclass(frozen=True, eq=False)
class TrainingState:
    """All that a training is, as one file that appears whole."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    averaged: AveragedModel | None
    folder: Path | None
    key: str

    @property
    def path(self) -> Path:
        """The file."""
        assert self.folder is not None
        return self.folder / "training.pth"

    def write(self, history: Sequence[Epoch]) -> None:
        """Write all of it, with what the epochs so far came to."""
        if self.folder is None:
            return
        state = {
            "key": self.key,
            "history": [{"loss": epoch.loss, "metrics": dict(epoch.metrics)} for epoch in history],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {key: value for key, value in self.schedule.state_dict().items() if key != "lr_lambdas"},
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
        }
        with atomic_write(self.path) as lent:
            torch.save(state, lent)

    def read(self) -> list[Epoch]:
        """Take over what a checkpoint holds, if there is one of this training; returns the epochs it has behind it."""
        if self.folder is None or not self.path.exists():
            return []
        try:
            state = torch.load(self.path, weights_only=True)
            if state["key"] != self.key:
                return []  # of another training, that ended up in this folder: begin anew
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None]})
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            return [Epoch(epoch["loss"], epoch["metrics"]) for epoch in state["history"]]
        except Exception as error:
            raise FileError(f"{self.path}: the training cannot go on from it ({type(error).__name__}: {error}); delete "
                            "it to train this stage from its beginning") from error  # fmt: skip
