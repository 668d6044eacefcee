"""Pruners that train go on after a kill: what each call of the trainer came to is kept, and loaded in its place.

All that such a pruner decides between two trainings follows from the weights and masks that it finds. So the decisions
are simply made again, and the trainings, which take the time, are not.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from torchpare.errors import FileError
from torchpare.files.atomic import atomic_write
from torchpare.pruning.export import load_state

__all__ = ["Replay"]


class Replay:
    """The trainings of one stage.

    Args:
        folder: where their results are kept; whoever runs the stage deletes them when it is over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.on = False
        """Whether anything is kept; said by whoever knows that the pruner can be replayed."""

    def done(self, call: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """Give the model and the optimizer what a training came to, if it is kept.

        Raises:
            FileError: what is kept cannot be used.
        """
        path = self._path(call)
        if not self.on or not path.exists():
            return False
        try:
            state = torch.load(path, weights_only=True)
            load_state(model, state["model"])
            optimizer.load_state_dict(state["optimizer"])
        except Exception as error:
            raise FileError(f"{path}: the stage cannot go on from it ({type(error).__name__}: {error}); delete "
                            f"{self.folder} to run the stage from its beginning") from error  # fmt: skip
        return True

    def keep(self, call: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keep what a training came to."""
        if self.on:
            with atomic_write(self._path(call)) as lent:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, lent)

    def _path(self, call: int) -> Path:
        return self.folder / f"training-{call:04}.pth"
