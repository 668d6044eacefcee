"""One trial of a search: a copy of the model is masked, perhaps trained a little, shrunk and evaluated.

A trial is a pure function of a bench and a job, whoever runs it: its random numbers are seeded from the job, and what
it does to the random state of the process is undone. That is what makes trials in other processes, on other machines,
and after a restart give the same search.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from torchpare.attach import attach_masks, masks_of
from torchpare.errors import SearchError
from torchpare.pruning.groups import complete_on_first_forward, forget_first_forward
from torchpare.speedup import ModelSpeedup
from torchpare.types import Masks

__all__ = ["Bench", "Job", "Outcome", "masked_copy", "run_trial", "seeded", "shrunk", "state_bytes"]


@dataclass(frozen=True, eq=False)
class Bench:
    """What all trials of one stage have in common."""

    model: nn.Module
    """The model as it is before a trial, masked already where earlier stages pruned."""
    evaluator: Callable[[nn.Module], Any]
    fine_tuner: Callable[[nn.Module], Any] | None
    """Trains a masked candidate a little before it is evaluated."""
    example: Any
    """What to shrink with; None where there is none, and then the masked model is evaluated."""
    structured: bool
    """Whether whole filters are masked, which take their groups along, or single weights."""
    keep_state: bool
    """Whether a trial hands back its trained weights."""


@dataclass(frozen=True)
class Job:
    """One candidate."""

    key: str
    """Unique in the search."""
    label: str
    """The candidate, in words."""
    masks: Masks
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a trial found."""

    key: str
    score: float
    seconds: float
    state: bytes | None = None
    """The trained, masked model's state as a safetensors file, where it was asked for."""


def run_trial(bench: Bench, job: Job) -> Outcome:
    """Run one trial.

    Raises:
        SearchError: the candidate could not be trained, shrunk or evaluated.
    """
    start = time.perf_counter()
    with seeded(job.seed):
        try:
            model = masked_copy(bench, job.masks)
            if bench.fine_tuner is not None:
                bench.fine_tuner(model)
            state = state_bytes(model) if bench.keep_state else None
            if bench.structured and bench.example is not None:
                shrunk(model, bench.example)
            score = float(bench.evaluator(model))
        except Exception as error:
            message = f"the candidate {job.label} failed: {type(error).__name__}: {error}"
            raise SearchError(message) from error
    return Outcome(job.key, score, time.perf_counter() - start, state)


def masked_copy(bench: Bench, masks: Masks) -> nn.Module:
    """A copy of the model under masks; without an example they spread over their groups at its first batch."""
    model = copy.deepcopy(bench.model)
    attach_masks(model, masks)
    if bench.structured and bench.example is None:
        complete_on_first_forward(model)
    return model


def shrunk(model: nn.Module, example: Any) -> None:
    """Make a masked model small, in place, if its masks take anything out."""
    forget_first_forward(model)
    if any(not bool(mask.all()) for own in masks_of(model).values() for mask in own.values()):
        ModelSpeedup(model, example, verify=False).speedup_model()


def state_bytes(model: nn.Module) -> bytes:
    """The state of a masked model, masks included, as a safetensors file."""
    state = {
        key: value.detach().clone().contiguous()
        for key, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }
    return to_bytes(state)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of Python, numpy and torch start from a seed, and go on afterwards as if nothing had been."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what user code may draw from
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
