"""Entries of pruners that take their time: what may be said beside the sparsity."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from pydantic import field_validator, model_validator

from torchpare.config.entries import Entry
from torchpare.config.selectors import problem

__all__ = ["GradualEntry", "RoundsEntry"]


class GradualEntry(Entry):
    """An entry of a pruner that prunes more from epoch to epoch.

    The schedule is the pruner's own (``num_iterations``, ``epochs_per_iteration``) unless ``end_epoch`` is given.
    """

    initial_sparsity: float = 0.0
    """The share that is pruned at the start, in [0, 1)."""

    final_sparsity: float | None = None
    """Another word for ``sparsity``."""

    start_epoch: int = 0
    """The first epoch with masks."""

    end_epoch: int | None = None
    """The first epoch after the schedule."""

    frequency: int = 1
    """Epochs from one mask to the next."""

    @field_validator("initial_sparsity", "final_sparsity", mode="before")
    @classmethod
    def _is_a_share(cls, value: Any) -> float:
        return cls._sparsity_is_a_share(value)

    @field_validator("start_epoch", "end_epoch", "frequency", mode="before")
    @classmethod
    def _epochs_are_counted(cls, value: Any) -> int:
        return _counted(value, "a number of epochs")

    @model_validator(mode="before")
    @classmethod
    def _one_sparsity(cls, given: dict[str, Any]) -> dict[str, Any]:
        if "final_sparsity" in given:
            if "sparsity" in given:
                raise problem("has both 'sparsity' and 'final_sparsity', which mean the same; leave one out")
            given = {**given, "sparsity": given["final_sparsity"]}
        return given

    @model_validator(mode="after")
    def _the_schedule_moves_on(self) -> GradualEntry:
        if self.frequency < 1:
            raise problem("['frequency'] is 0, so no mask would ever follow; give 1 for one in each epoch")
        if self.end_epoch is not None and self.end_epoch <= self.start_epoch:
            raise problem(f"ends with epoch {self.end_epoch}, and begins with epoch {self.start_epoch}; end later")
        if self.sparsity is not None and self.initial_sparsity > self.sparsity:
            raise problem(f"begins with a sparsity of {self.initial_sparsity:g} and ends with {self.sparsity:g}, but "
                          "nothing that was pruned comes back; begin with less")  # fmt: skip
        return self


class RoundsEntry(Entry):
    """An entry of a pruner that trains several times from the same start."""

    prune_iterations: int = 1
    """How many times to prune; the same in all entries."""

    @field_validator("prune_iterations", mode="before")
    @classmethod
    def _rounds_are_counted(cls, value: Any) -> int:
        if _counted(value, "a number of rounds") < 1:
            raise problem("is 0; give 1 to prune once")
        return int(value)


def _counted(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise problem(f"is {value!r}, not {what}; give a whole number")
    return int(value)
