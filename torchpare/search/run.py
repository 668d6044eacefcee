"""A search at work: candidates become trials, trials become lines of the journal, and all of it shows on a terminal."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from torchpare.attach import attach_masks
from torchpare.errors import MaskError, SearchError
from torchpare.numerics.allocation import Vector, least_factor, rounded
from torchpare.pruning.export import load_state
from torchpare.search.costs import Costs
from torchpare.search.executor import Executor
from torchpare.search.journal import Journal, digest
from torchpare.search.trial import Bench, Job, Outcome, seeded, state_bytes
from torchpare.search.variables import Variable

__all__ = ["SearchRun", "Trial", "gain_of", "progress_bar"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """An evaluated candidate."""

    vector: Vector
    """``(V,)`` sparsities of the variables."""
    score: float
    """What the evaluator said."""
    gain: float
    """The score, so that larger is better; minus infinity for a NaN."""
    cost: float
    key: str


@dataclass(frozen=True, eq=False)
class SearchRun:
    """What a search strategy has in its hands.

    Attributes:
        bench: the model, before any trial of the present stage.
        variables: what may be turned; vectors have an entry for each.
        costs: what sparsities cost.
        limit: the cost to come down to.
        dense: what the model cost and scored before the search.
        maximize: whether a larger score is the better one.
        seed: of every random number.
        most: ``(V,)``, the largest sparsities.
        round_to: of what number layers keep multiples.
    """

    bench: Bench
    variables: tuple[Variable, ...]
    layers: tuple[str, ...]
    costs: Costs
    limit: float
    dense: Trial
    maximize: bool
    seed: int
    most: Vector
    round_to: int
    journal: Journal
    executor: Executor
    progress: Progress

    @property
    def zeros(self) -> Vector:
        """Nothing pruned."""
        return np.zeros(len(self.variables))

    @property
    def sizes(self) -> Vector:
        """``(V,)`` weights of the variables' layers."""
        return np.array([variable.weights for variable in self.variables], dtype=np.float64)

    def sparsities(self, vector: Vector) -> dict[str, float]:
        """A vector's sparsity for each selected layer, rounded; 0 where the search may not prune."""
        found = dict.fromkeys(self.layers, 0.0)
        for variable, sparsity in zip(self.variables, vector, strict=True):
            share = rounded(float(sparsity), variable.units, self.round_to)
            found.update(dict.fromkeys(variable.layers, share))
        return found

    def cost(self, vector: Vector) -> float:
        """What a vector costs."""
        return self.costs.of(self.sparsities(vector))

    def random(self, *place: int) -> np.random.Generator:
        """Random numbers that depend on the seed and the place in the search alone."""
        return np.random.default_rng([self.seed, *place])

    def gain(self, score: float) -> float:
        """A score, so that larger is better."""
        return gain_of(score, self.maximize)

    def try_all(
        self,
        stage: str,
        vectors: Sequence[Vector],
        *,
        places: Sequence[int] | None = None,
        expected: int | None = None,
    ) -> list[Trial]:
        """Evaluate candidates, those that are in the journal from there; the order is kept.

        Args:
            stage: where in the search this is.
            vectors: the candidates.
            places: numbers that tell equal candidates of one stage apart; their order, if not given.
            expected: how many trials the whole search will have, for the progress bar.
        """
        numbered = zip(range(len(vectors)) if places is None else places, vectors, strict=True)
        keys = [digest(stage, place, [round(float(s), 12) for s in vector]) for place, vector in numbered]
        jobs = [
            self._job(stage, key, vector) for key, vector in zip(keys, vectors, strict=True) if key not in self.journal
        ]
        task = self.progress.task_ids[0]
        if expected is not None:
            self.progress.update(task, total=expected)
        self.progress.advance(task, len(vectors) - len(jobs))
        for outcome in self.executor.run(self.bench, jobs) if jobs else ():
            self._write(stage, outcome)
            self.progress.advance(task)
        trials = [self._read(key, vector) for key, vector in zip(keys, vectors, strict=True)]
        if trials:
            best = max(trials, key=lambda trial: trial.gain)
            self.progress.update(task, description=f"{stage}: {best.score:.4g}")
        return trials

    def commit(self, trial: Trial) -> None:
        """Take a trial's masks over into the model, with the weights it was trained to."""
        attach_masks(self.bench.model, self.costs.masks(self.sparsities(trial.vector)))
        if self.bench.keep_state:
            self._load(trial.key)
        self.costs.forget()

    def _load(self, key: str) -> None:
        """Give the model the weights and masks that were kept under a key."""
        try:
            load_state(self.bench.model, self.journal.state(key))
        except (RuntimeError, MaskError) as error:
            raise self.journal.spoilt(
                f"the state kept under {key!r} is of another model ({error}), or a fine-tuner changes not only weights"
            ) from error
        self.costs.forget()

    # A search that changes the model goes in stages. After each, the model is kept; a restart begins at the last.

    def end_stage(self, name: str, number: int, trial: Trial) -> tuple[SearchRun, Trial]:
        """Keep what a stage has come to, and go on with it: workers get the model anew, the trial the stage's key."""
        key = f"{name} {number}"
        self.journal.write_state(key, state_bytes(self.bench.model))
        self.journal.write(key, vector=[float(s) for s in trial.vector], score=trial.score, cost=trial.cost)
        self.journal.drop_states(keep=key)
        self.costs.forget()
        return self._anew(), replace(trial, key=key)

    def _anew(self) -> SearchRun:
        """The same search after its model was changed: workers, who have a copy of it, get it once more."""
        return replace(self, bench=replace(self.bench))

    def last_stage(self, name: str) -> tuple[int, Trial]:
        """The last stage that ended, with the model put back to its end; stage 0 is the dense model."""
        number = 0
        while f"{name} {number + 1}" in self.journal:
            number += 1
        if not number:
            return 0, self.dense
        key = f"{name} {number}"
        vector = np.array(self.journal.numbers(key, "vector", len(self.variables)))
        score, cost = self.journal.number(key, "score"), self.journal.number(key, "cost")
        self._load(key)
        return number, Trial(vector, score, self.gain(score), cost, key)

    def train(self, key: str, does: Callable[[], Any]) -> SearchRun:
        """Run the user's training, with random numbers that depend on the seed and the key alone.

        Returns:
            the search to go on with, whose workers get the model anew.
        """
        with seeded(int(digest(self.seed, key)[:8], 16)):
            does()
        self.costs.forget()
        return self._anew()

    def meet(self, candidate: Callable[[float], Vector], limit: float) -> Vector | None:
        """The candidate of the least factor whose cost is within a limit, as near as the cost is worth asking for.

        Args:
            candidate: of a factor from 0 to a very large number; its cost never rises with it.
            limit: the cost to come down to.

        Returns:
            None if no factor is enough.
        """

        def at(share: float) -> Vector:
            return candidate(share / max(1.0 - share, 1e-12))

        measured = self.costs.is_measured  # each question is an export and some runs, and the answers have noise
        share = least_factor(
            lambda share: self.cost(at(share)), limit, 1.0, rounds=7 if measured else 30, precision=1e-8
        )
        return None if share is None else at(share)

    def check_reachable(self) -> None:
        """See that the limit can be met at all.

        Raises:
            SearchError: it cannot, however much is pruned.
        """
        least = self.cost(self.most)
        if least > self.limit:
            raise SearchError(
                f"the limit of {self.limit:.6g} cannot be met: with every selected layer pruned as far as max_sparsity "
                f"and round_to let it, the cost is still {least:.6g} (it is {self.dense.cost:.6g} now). Select more "
                "layers, or ask for less"
            )

    def _job(self, stage: str, key: str, vector: Vector) -> Job:
        sparsities = self.sparsities(vector)
        label = f"{stage} " + ", ".join(f"{v.name}={s:.3f}" for v, s in zip(self.variables, vector, strict=True))
        return Job(key, label, self.costs.masks(sparsities), int(digest(self.seed, key)[:8], 16))

    def _write(self, stage: str, outcome: Outcome) -> None:
        if outcome.state is not None:
            self.journal.write_state(outcome.key, outcome.state)
        self.journal.write(outcome.key, stage=stage, score=outcome.score, seconds=outcome.seconds)
        log.info("%s: score %.6g in %.3g s", stage, outcome.score, outcome.seconds)

    def _read(self, key: str, vector: Vector) -> Trial:
        score = self.journal.number(key, "score")
        return Trial(vector, score, self.gain(score), self.cost(vector), key)


def gain_of(score: float, maximize: bool) -> float:
    """A score, so that larger is better; minus infinity for a NaN."""
    return -math.inf if math.isnan(score) else score if maximize else -score


def progress_bar(title: str) -> Progress:
    """A bar with what is done, how long it took and how long it will still take; on a terminal only."""
    console = Console(stderr=True)
    words = TextColumn("{task.description}")
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    progress.add_task(title, total=None)
    return progress
