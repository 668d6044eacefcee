"""NetAdapt: step by step, prune the one layer that the model misses least."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from torch import nn

from torchpare.errors import SearchError
from torchpare.numerics.allocation import Vector
from torchpare.pruning.ranked import Criterion
from torchpare.search.arguments import check_share
from torchpare.search.base import SearchOptions, SearchPruner
from torchpare.search.run import SearchRun, Trial

__all__ = ["NetAdaptPruner"]

log = logging.getLogger(__name__)

_LEAST_STEP = 1e-9
"""Of the dense cost: as good as none."""


class NetAdaptPruner(SearchPruner):
    """In each iteration tries every layer alone, each pruned as far as the step asks, and keeps the best candidate.

    Yang, Howard, Chen, Zhang, Go, Sandler, Sze, Adam, "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile
    Applications", ECCV 2018, equation 2 (a step: the best score among those that cost so much less) and algorithm 1.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; the first one's ``sparsity`` is the overall share that has to go.
        short_term_fine_tuner: ``short_term_fine_tuner(model)`` trains a candidate a little; the best one's weights are
            kept. None leaves the weights as they are.
        evaluator: ``evaluator(model) -> float``, of a shrunk copy.
        optimize_mode: ``"maximize"`` or ``"minimize"``.
        base_algo: what goes within a layer.
        sparsity_per_iteration: the share of the dense model's cost that goes in an iteration.
        experiment_data_dir: where the journal and ``search_result.json`` are written.
        dummy_input: an example input.
        options: ``objective``, ``executor``, ``seed``, ``max_sparsity``, ``round_to``, ``resume``: see
            :class:`SearchPruner`.

    Raises:
        ConfigError: as :class:`SearchPruner`.
        SearchError: from ``compress()``, if the objective cannot be met or a trial fails.
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        short_term_fine_tuner: Callable[[nn.Module], Any] | None,
        evaluator: Callable[[nn.Module], Any],
        optimize_mode: str = "maximize",
        base_algo: Criterion = "l1",
        sparsity_per_iteration: float = 0.05,
        experiment_data_dir: str | os.PathLike[str] = "./",
        *,
        dummy_input: Any = None,
        **options: Unpack[SearchOptions],
    ) -> None:
        super().__init__(
            model, config_list, evaluator, optimize_mode=optimize_mode, base_algo=base_algo,
            experiment_data_dir=experiment_data_dir, fine_tuner=short_term_fine_tuner,
            dummy_input=dummy_input, **options,
        )  # fmt: skip
        check_share("NetAdaptPruner", "sparsity_per_iteration", sparsity_per_iteration)
        self.sparsity_per_iteration = sparsity_per_iteration

    def settings(self) -> dict[str, Any]:
        """The size of a step."""
        return {"sparsity_per_iteration": self.sparsity_per_iteration}

    def search(self, run: SearchRun) -> Trial:
        """Go down step by step, each along the layer that costs the least of the score."""
        run.check_reachable()
        iteration, now = run.last_stage("iteration")
        step = self.sparsity_per_iteration * run.dense.cost
        while now.cost > run.limit:
            goal = max(run.limit, now.cost - step)
            moves = (_pruned_to(run, now.vector, at, goal) for at in range(len(run.variables)))
            steps = [vector for vector in moves if vector is not None]
            if not steps:  # no layer alone can take the whole step
                step /= 2
                if step < _LEAST_STEP * run.dense.cost:
                    raise SearchError(
                        f"NetAdaptPruner: no layer alone makes the cost less than {now.cost:.6g}, and the limit is "
                        f"{run.limit:.6g}; BudgetSearchPruner prunes several layers at a time"
                    )
                continue
            iteration += 1
            left = math.ceil((now.cost - run.limit) / step)
            trials = run.try_all(f"iteration {iteration}", steps, expected=(iteration - 1 + left) * len(run.variables))
            now = max(trials, key=lambda trial: trial.gain)
            run.commit(now)
            run, now = run.end_stage("iteration", iteration, now)
            log.info("iteration %d: cost %.6g of at most %.6g, score %.6g", iteration, now.cost, run.limit, now.score)
        return now


def _pruned_to(run: SearchRun, vector: Vector, at: int, goal: float) -> Vector | None:
    """The vector with one layer pruned just as far as the cost comes down to a goal; None if that is not enough."""
    units = run.variables[at].units
    least, most = round(vector[at] * units) + 1, int(run.most[at] * units + 1e-6)

    def moved(drop: int) -> Vector:
        changed = np.array(vector)
        changed[at] = drop / units
        return changed

    if least > most or run.cost(moved(most)) > goal:
        return None
    while least < most:
        middle = (least + most) // 2
        if run.cost(moved(middle)) <= goal:
            most = middle
        else:
            least = middle + 1
    return moved(most)
