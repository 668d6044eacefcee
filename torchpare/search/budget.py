"""The best sparsities for a budget, searched by Optuna."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from torch import nn

from torchpare.errors import ConfigError, MissingExtraError
from torchpare.numerics.allocation import Vector
from torchpare.pruning.ranked import Criterion
from torchpare.pruning.training import checked_batches
from torchpare.search.base import SearchOptions, SearchPruner
from torchpare.search.fingerprint import of_code
from torchpare.search.run import SearchRun, Trial
from torchpare.search.simulated_annealing import brought_down

__all__ = ["BudgetSearchPruner"]


class BudgetSearchPruner(SearchPruner):
    """Searches the sparsities that score best among those that just meet the objective.

    Optuna proposes in which proportions layers lose; each proposal is scaled to the objective and tried. The first one
    is that all lose alike, so the result is never worse than that by the evaluator's own measure. Proposals come in
    rounds of a fixed size, whose trials the executor runs side by side: the search does not depend on who runs them.

    Akiba, Sano, Yanase, Ohta, Koyama, "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019; its
    sampler by default: Bergstra, Bardenet, Bengio, Kégl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; the first one's ``sparsity`` is the overall share that has to go.
        evaluator: ``evaluator(model) -> float``, of a shrunk copy.
        trials: how many candidates to try.
        optimize_mode: ``"maximize"`` or ``"minimize"``.
        base_algo: what goes within a layer.
        experiment_data_dir: where the journal and ``search_result.json`` are written.
        round_size: how many proposals are made at a time.
        sampler: makes an Optuna sampler from a seed; a tree of Parzen estimators if not given.
        fine_tuner: trains a candidate a little before it is evaluated.
        dummy_input: an example input.
        options: ``objective``, ``executor``, ``seed``, ``max_sparsity``, ``round_to``, ``resume``: see
            :class:`SearchPruner`.

    Raises:
        ConfigError: as :class:`SearchPruner`.
        MissingExtraError: Optuna is not installed.
        SearchError: from ``compress()``, if the objective cannot be met or a trial fails.
    """

    def __init__(  # noqa: PLR0913 - every search's arguments
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        evaluator: Callable[[nn.Module], Any],
        trials: int = 50,
        optimize_mode: str = "maximize",
        base_algo: Criterion = "l1",
        experiment_data_dir: str | os.PathLike[str] = "./",
        *,
        round_size: int = 4,
        sampler: Callable[[int], Any] | None = None,
        fine_tuner: Callable[[nn.Module], Any] | None = None,
        dummy_input: Any = None,
        **options: Unpack[SearchOptions],
    ) -> None:
        super().__init__(
            model, config_list, evaluator, optimize_mode=optimize_mode, base_algo=base_algo,
            experiment_data_dir=experiment_data_dir, fine_tuner=fine_tuner,
            dummy_input=dummy_input, **options,
        )  # fmt: skip
        try:
            import optuna
        except ImportError as error:
            raise MissingExtraError(
                "Optuna is not installed; it comes with: pip install 'torchpare[search]'"
            ) from error
        self._optuna = optuna
        self.trials = checked_batches("BudgetSearchPruner", "trials", trials)
        self.round_size = checked_batches("BudgetSearchPruner", "round_size", round_size)
        if sampler is not None and not callable(sampler):
            raise ConfigError(f"BudgetSearchPruner: sampler is a {type(sampler).__name__}; it is a function that makes "
                              "an Optuna sampler from a seed, such as a sampler's class")  # fmt: skip
        self.sampler = sampler

    def settings(self) -> dict[str, Any]:
        """How proposals are made."""
        return {"trials": self.trials, "round_size": self.round_size, "sampler": of_code(self.sampler)}

    def search(self, run: SearchRun) -> Trial:
        """Ask, try and tell, round by round."""
        run.check_reachable()
        optuna = self._optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        names = [variable.name for variable in run.variables]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = (self.sampler or _parzen)(self.seed)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            study.enqueue_trial(dict.fromkeys(names, 1.0))
            best: Trial | None = None
            for start in range(0, self.trials, self.round_size):
                asked = [study.ask() for _ in range(min(self.round_size, self.trials - start))]
                vectors = [_proposed(run, trial, names) for trial in asked]
                found = run.try_all("search", vectors, places=range(start, start + len(asked)), expected=self.trials)
                for trial, result in zip(asked, found, strict=True):
                    if np.isfinite(result.gain):
                        study.tell(trial, result.gain)
                    else:
                        study.tell(trial, state=optuna.trial.TrialState.FAIL)
                    if best is not None:
                        best, worse = (result, best) if result.gain > best.gain else (best, result)
                        run.journal.drop_state(worse.key)
                    best = best or result
        assert best is not None
        run.commit(best)
        return best


def _proposed(run: SearchRun, trial: Any, names: list[str]) -> Vector:
    direction = np.array([trial.suggest_float(name, 0.0, 1.0) for name in names])
    return brought_down(run, direction, run.limit, run.dense.vector)


def _parzen(seed: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
