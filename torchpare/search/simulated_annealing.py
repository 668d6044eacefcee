"""Simulated annealing: sparsities take random steps, fewer and fewer of them for the worse."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Unpack

import numpy as np
from torch import nn

from torchpare.errors import ConfigError, SearchError
from torchpare.files.atomic import atomic_write
from torchpare.numerics.allocation import Vector, acceptance, perturbed, scaled, sorted_start
from torchpare.pruning.ranked import Criterion
from torchpare.search.base import SearchOptions, SearchPruner
from torchpare.search.run import SearchRun, Trial

__all__ = ["Annealing", "SimulatedAnnealingPruner", "anneal", "brought_down"]

_PATIENCE = 10
_BEARABLE = 0.1


@dataclass(frozen=True)
class Annealing:
    """How a search cools down; the arguments of :class:`SimulatedAnnealingPruner`."""

    start: float = 100.0
    stop: float = 20.0
    rate: float = 0.9
    magnitude: float = 0.35

    def __post_init__(self) -> None:
        numbers = all(isinstance(value, Real) for value in vars(self).values())
        if not (numbers and 0 < self.stop < self.start < math.inf and 0 < self.rate < 1 and self.magnitude > 0):
            raise ConfigError(
                f"annealing: temperatures {self.start!r} to {self.stop!r} at a rate of {self.rate!r} and a magnitude "
                f"of {self.magnitude!r}; it starts above where it stops, the rate lies between 0 and 1, and the "
                "magnitude is above 0"
            )

    @property
    def coolings(self) -> int:
        """How often it cools down before it stops."""
        return math.ceil(math.log(self.stop / self.start) / math.log(self.rate))


@dataclass
class _State:
    """Where annealing stands."""

    now: Trial
    temperature: float
    best: Trial
    proposal: int = 1
    rejected: int = 0
    history: list[Trial] = field(default_factory=list)


def anneal(
    run: SearchRun,
    cooling: Annealing,
    stage: str = "annealing",
    limit: float | None = None,
    already: Trial | None = None,
) -> list[Trial]:
    """Anneal sparsities of one cost, and return every trial that annealing looked at, in order.

    Each proposal depends on the seed, its number, the present state and temperature alone, and a rejection changes
    neither of the last two. So as many next proposals as there are workers are tried at once, each as if the ones
    before it were rejected; those after an accepted one are forgotten. The search is the same for any number of them.

    Args:
        run: the search.
        cooling: temperatures.
        stage: the name of this annealing in the search.
        limit: the cost of the candidates; the run's if not given.
        already: what is pruned, below which no candidate goes; the dense model if not given.
    """
    goal = run.limit if limit is None else limit
    least = (already or run.dense).vector
    start = brought_down(run, sorted_start(run.sizes, run.random(0)), goal, least)
    (first,) = run.try_all(f"{stage}, start", [start], expected=cooling.coolings + 1)
    state = _State(first, cooling.start, first, history=[first])
    scale = abs(run.dense.score) * _BEARABLE if math.isfinite(run.dense.score) and run.dense.score else _BEARABLE
    while state.temperature > cooling.stop:
        ahead = range(state.proposal, state.proposal + max(1, run.executor.workers))
        width = state.temperature / cooling.start * cooling.magnitude
        steps = [
            brought_down(run, perturbed(state.now.vector, width, run.random(number)), goal, least) for number in ahead
        ]
        trials = run.try_all(stage, steps, places=ahead)
        for number, trial in zip(ahead, trials, strict=True):
            state.proposal = number + 1
            state.history.append(trial)
            loss = (state.now.gain - trial.gain) / scale
            chance = acceptance(loss, state.temperature / cooling.start)
            accepted = run.random(number, 1).uniform() < chance
            state.now = trial if accepted else state.now
            state.best = _better(run, state.best, trial)
            state.rejected = 0 if accepted else state.rejected + 1
            if accepted or state.rejected >= _PATIENCE:
                state.temperature *= cooling.rate
                state.rejected = 0
                break
    return state.history


def _better(run: SearchRun, best: Trial, other: Trial) -> Trial:
    """The better of two trials; the trained weights of the worse are not needed any more."""
    worse, best = (best, other) if other.gain > best.gain else (other, best)
    run.journal.drop_state(worse.key)
    return best


def brought_down(run: SearchRun, direction: Vector, limit: float, least: Vector) -> Vector:
    """A direction, scaled until its cost just meets a limit.

    Raises:
        SearchError: no factor does.
    """
    direction = direction + 1e-3  # so that every layer takes part where the others cannot give any more
    met = run.meet(lambda factor: np.maximum(least, scaled(direction, factor, run.most)), limit)
    if met is None:
        run.check_reachable()
        raise SearchError(f"no candidate comes down to a cost of {limit:.6g}")
    return met


class SimulatedAnnealingPruner(SearchPruner):
    """Searches sparsities by simulated annealing, each candidate scaled to the objective.

    A step for the worse is taken with probability ``exp(-loss / t)``, where ``t`` goes from 1 to ``stop_temperature /
    start_temperature`` and the loss is counted in tenths of the dense model's score. (The older toolkit divided the
    bare difference of the scores, mostly below 1, by temperatures of 20 to 100, and so took nearly every step.)

    Guided annealing as in Liu, Ma, Xu, Wang, Tang, Ye, "AutoCompress: An Automatic DNN Structured Pruning Framework for
    Ultra-High Compression Rates", AAAI 2020.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; the first one's ``sparsity`` is the overall share that has to go.
        evaluator: ``evaluator(model) -> float``, of a shrunk copy.
        optimize_mode: ``"maximize"`` or ``"minimize"``.
        base_algo: what goes within a layer.
        start_temperature: where annealing begins.
        stop_temperature: where it ends.
        cool_down_rate: by what the temperature is multiplied after each accepted step, and after ten rejected ones.
        perturbation_magnitude: how far a sparsity moves at most, at the start; less as it cools.
        experiment_data_dir: where the journal, ``search_result.json`` and ``search_history.csv`` are written.
        fine_tuner: trains a candidate a little before it is evaluated.
        dummy_input: an example input.
        options: ``objective``, ``executor``, ``seed``, ``max_sparsity``, ``round_to``, ``resume``: see
            :class:`SearchPruner`.

    Raises:
        ConfigError: as :class:`SearchPruner`.
        SearchError: from ``compress()``, if the objective cannot be met or a trial fails.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of the older toolkit, and every search's
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        evaluator: Callable[[nn.Module], Any],
        optimize_mode: str = "maximize",
        base_algo: Criterion = "l1",
        start_temperature: float = 100,
        stop_temperature: float = 20,
        cool_down_rate: float = 0.9,
        perturbation_magnitude: float = 0.35,
        experiment_data_dir: str | os.PathLike[str] = "./",
        *,
        fine_tuner: Callable[[nn.Module], Any] | None = None,
        dummy_input: Any = None,
        **options: Unpack[SearchOptions],
    ) -> None:
        super().__init__(
            model, config_list, evaluator, optimize_mode=optimize_mode, base_algo=base_algo,
            experiment_data_dir=experiment_data_dir, fine_tuner=fine_tuner,
            dummy_input=dummy_input, **options,
        )  # fmt: skip
        self.cooling = Annealing(start_temperature, stop_temperature, cool_down_rate, perturbation_magnitude)
        self._history: list[Trial] = []

    def settings(self) -> dict[str, Any]:
        """The temperatures."""
        return vars(self.cooling)

    def search(self, run: SearchRun) -> Trial:
        """Anneal, and return the best trial."""
        run.check_reachable()
        self._history = anneal(run, self.cooling)
        best = max(self._history, key=lambda trial: trial.gain)
        run.commit(best)
        return best

    def compress(self, return_config_list: bool = False) -> Any:
        """Search, mask the model and return it; or, if asked for, what was found as a ``config_list``."""
        model = super().compress()
        return self.get_config_list() if return_config_list else model

    def finish(self, run: SearchRun, best: Trial) -> None:
        """Write down what was found, and all that was tried."""
        super().finish(run, best)
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["sparsity", "performance", "config_list"])
        for trial in self._history:
            config_list = json.dumps(self.config_of(run.sparsities(trial.vector)))
            writer.writerow([1 - trial.cost / run.dense.cost, trial.score, config_list])
        with atomic_write(self.folder / "search_history.csv") as lent:
            lent.write_text(table.getvalue(), encoding="utf-8")
