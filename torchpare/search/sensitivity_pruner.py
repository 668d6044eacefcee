"""Every layer loses in proportion to what it was seen to bear by itself."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import nn

from torchpare.errors import ConfigError, SearchError
from torchpare.files.atomic import atomic_write
from torchpare.numerics.allocation import Vector, tolerated_ratio, toward_one
from torchpare.pruning.ranked import Criterion
from torchpare.search.arguments import WithModel, check_share
from torchpare.search.base import SearchOptions, SearchPruner
from torchpare.search.fingerprint import of_code
from torchpare.search.run import SearchRun, Trial
from torchpare.search.sensitivity import RATIOS, read_sensitivity, write_sensitivity

__all__ = ["SensitivityPruner"]

log = logging.getLogger(__name__)


class SensitivityPruner(SearchPruner):
    """Prunes every layer by itself to see what it bears, then all of them in proportion, and again with what is left.

    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, whose
    section on sensitivity numbers no equation.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; the first one's ``sparsity`` is the overall share that has to go.
        evaluator: ``evaluator(*eval_args, **eval_kwargs) -> float``, of a shrunk copy: where the arguments that
            ``compress()`` is given say the model, a candidate takes its place; where they do not, it comes first.
        finetuner: ``finetuner(*finetune_args, **finetune_kwargs)`` trains the model after each iteration; the model is
            put first where the arguments do not name it.
        base_algo: what goes within a layer.
        sparsity_proportion_calc: turns the tolerated ratios ``{layer: ratio}`` into the proportions in which layers
            lose; by itself the ratios as they are.
        sparsity_per_iter: the share of the dense model's cost that goes in an iteration.
        acc_drop_threshold: what a layer alone may cost the evaluator's value.
        checkpoint_dir: where each iteration writes its sensitivities (``Iter_<i>_sensitivity.csv``) and what came of
            them: a plain state dict with zeros written in (``Iter_<i>_finetune_acc_<score>_sparsity_<share gone>.pth``)
            and a ``config_list`` for the pruner that ``base_algo`` names (``..._pruner.json``).
        optimize_mode: ``"maximize"`` or ``"minimize"``.
        experiment_data_dir: where the journal and ``search_result.json`` are written; ``checkpoint_dir``, where that is
            given.
        dummy_input: an example input.
        options: ``objective``, ``executor``, ``seed``, ``max_sparsity``, ``round_to``, ``resume``: see
            :class:`SearchPruner`.

    Raises:
        ConfigError: as :class:`SearchPruner`.
        SearchError: from ``compress()``, if the objective cannot be met or a trial fails.
    """

    def __init__(  # noqa: PLR0913 - the arguments of the older toolkit, and every search's
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        evaluator: Callable[..., Any],
        finetuner: Callable[..., Any] | None = None,
        base_algo: Criterion = "l1",
        sparsity_proportion_calc: Callable[[dict[str, float]], Mapping[str, float]] | None = None,
        sparsity_per_iter: float = 0.1,
        acc_drop_threshold: float = 0.05,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        *,
        optimize_mode: str = "maximize",
        experiment_data_dir: str | os.PathLike[str] = "./",
        dummy_input: Any = None,
        **options: Unpack[SearchOptions],
    ) -> None:
        options.setdefault("max_sparsity", 0.95)
        super().__init__(
            model, config_list, evaluator, optimize_mode=optimize_mode, base_algo=base_algo,
            experiment_data_dir=experiment_data_dir if checkpoint_dir is None else checkpoint_dir,
            dummy_input=dummy_input, **options,
        )  # fmt: skip
        check_share("SensitivityPruner", "sparsity_per_iter", sparsity_per_iter)
        if not isinstance(acc_drop_threshold, Real) or not acc_drop_threshold >= 0:
            raise ConfigError(f"SensitivityPruner: acc_drop_threshold is {acc_drop_threshold!r}; it is 0 or more")
        self.finetuner, self.sparsity_proportion_calc = finetuner, sparsity_proportion_calc
        self.sparsity_per_iter, self.acc_drop_threshold = sparsity_per_iter, acc_drop_threshold
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self._finetune: Callable[[], Any] | None = None
        self._resumed: dict[str, dict[float, float]] = {}

    def settings(self) -> dict[str, Any]:
        """The size of a step, and what a layer may cost."""
        return {
            "sparsity_per_iter": self.sparsity_per_iter, "acc_drop_threshold": self.acc_drop_threshold,
            "finetuner": of_code(self.finetuner), "proportions": of_code(self.sparsity_proportion_calc),
            "resumed": [[name, sorted(row.items())] for name, row in sorted(self._resumed.items())],
        }  # fmt: skip

    def compress(
        self,
        eval_args: Sequence[Any] | None = None,
        eval_kwargs: Mapping[str, Any] | None = None,
        finetune_args: Sequence[Any] | None = None,
        finetune_kwargs: Mapping[str, Any] | None = None,
        resume_sensitivity: str | os.PathLike[str] | None = None,
    ) -> nn.Module:
        """Search, mask the model and return it.

        Args:
            eval_args: for the evaluator.
            eval_kwargs: for the evaluator.
            finetune_args: for the fine-tuner.
            finetune_kwargs: for the fine-tuner.
            resume_sensitivity: a CSV file of sensitivities for the first iteration.
        """
        if not self._compressed:
            if eval_args or eval_kwargs:
                self.evaluator = WithModel(self.evaluator, self.bound_model, eval_args, eval_kwargs)
            if self.finetuner is not None:
                self._finetune = functools.partial(
                    WithModel(self.finetuner, self.bound_model, finetune_args, finetune_kwargs), self.bound_model
                )
            if resume_sensitivity is not None:
                self._resumed = self.load_sensitivity(resume_sensitivity)
        return super().compress()

    @staticmethod
    def load_sensitivity(filepath: str | os.PathLike[str]) -> dict[str, dict[float, float]]:
        """Sensitivities from a CSV file, by layer and ratio.

        Raises:
            FileError: it is none.
        """
        return read_sensitivity(filepath)

    def search(self, run: SearchRun) -> Trial:
        """Analyse, prune in proportion, fine-tune; again until the objective is met."""
        run.check_reachable()
        iteration, now = run.last_stage("iteration")
        while now.cost > run.limit:
            iteration += 1
            rows = self._analysed(run, now, iteration)
            if self.checkpoint_dir is not None:
                write_sensitivity(self.checkpoint_dir / f"Iter_{iteration}_sensitivity.csv", rows, RATIOS)
            goal = max(run.limit, now.cost - self.sparsity_per_iter * run.dense.cost)
            vector = self._allocated(run, now, self._ratios(run, rows, now.score), goal)
            (now,) = run.try_all(f"iteration {iteration}", [vector])
            run.commit(now)
            if self._finetune is not None:
                run = run.train(f"iteration {iteration}", self._finetune)
                (now,) = run.try_all(f"iteration {iteration}, fine-tuned", [now.vector])
            self._write_checkpoint(run, now, iteration)
            run, now = run.end_stage("iteration", iteration, now)
            log.info("iteration %d: cost %.6g of at most %.6g, score %.6g", iteration, now.cost, run.limit, now.score)
        return now

    def _write_checkpoint(self, run: SearchRun, now: Trial, iteration: int) -> None:
        """Write what an iteration has come to, under the older toolkit's names."""
        if self.checkpoint_dir is None:
            return
        gone = 1 - now.cost / run.dense.cost
        name = f"Iter_{iteration}_finetune_acc_{now.score:.5f}_sparsity_{gone:.4f}"
        super().export_model(self.checkpoint_dir / f"{name}.pth")
        with atomic_write(self.checkpoint_dir / f"{name}_pruner.json") as lent:
            lent.write_text(json.dumps(self.config_of(run.sparsities(now.vector))) + "\n", encoding="utf-8")

    def _analysed(self, run: SearchRun, now: Trial, iteration: int) -> dict[str, dict[float, float]]:
        """What the evaluator says, by layer and ratio."""
        rows: dict[str, dict[float, float]] = {variable.name: {} for variable in run.variables}
        if iteration == 1 and self._resumed:
            return {name: self._resumed.get(name, {}) for name in rows}
        alive = list(range(len(run.variables)))
        for ratio in RATIOS:  # all layers at one ratio: as many trials at a time as there are layers left
            vectors = [_alone(run, now.vector, at, ratio) for at in alive]
            trials = run.try_all(f"iteration {iteration}, each layer at {ratio}", vectors, places=alive,
                                 expected=len(RATIOS) * len(run.variables))  # fmt: skip
            for at, trial in zip(alive, trials, strict=True):
                rows[run.variables[at].name][ratio] = trial.score
            kept = zip(alive, trials, strict=True)
            alive = [at for at, trial in kept if trial.gain >= now.gain - self.acc_drop_threshold]
        return rows

    def _ratios(self, run: SearchRun, rows: Mapping[str, dict[float, float]], score: float) -> Vector:
        gains = {name: {ratio: run.gain(value) for ratio, value in row.items()} for name, row in rows.items()}
        ratios = {n: tolerated_ratio(row, run.gain(score), self.acc_drop_threshold) for n, row in gains.items()}
        if self.sparsity_proportion_calc is not None:
            ratios = _checked_proportions(self.sparsity_proportion_calc(ratios), ratios)
        vector = np.array([ratios[variable.name] for variable in run.variables], dtype=np.float64)
        if not vector.any():
            log.warning("no layer alone bears to lose a tenth: all lose the same share. A larger acc_drop_threshold "
                        "would tell them apart")  # fmt: skip
        return vector if vector.any() else np.full(len(vector), RATIOS[0])

    def _allocated(self, run: SearchRun, now: Trial, ratios: Vector, goal: float) -> Vector:
        for proportions in (ratios, ratios + 1e-4):  # layers that bear nothing give where the others have no more

            def at(factor: float, proportions: Vector = proportions) -> Vector:
                return np.maximum(now.vector, toward_one(now.vector, proportions, factor, run.most))

            met = run.meet(at, goal)
            if met is not None:
                return met
        raise SearchError(f"no candidate comes down to a cost of {goal:.6g}")


def _checked_proportions(given: Any, ratios: Mapping[str, float]) -> dict[str, float]:
    """What the user's function made of the tolerated ratios."""
    found = dict(given) if isinstance(given, Mapping) else {}
    if not all(isinstance(found.get(name), Real) and 0 <= found[name] < math.inf for name in ratios):
        raise SearchError(f"sparsity_proportion_calc returned {given!r}; it returns a dict with a number, 0 or more, "
                          f"for each of {', '.join(ratios)}")  # fmt: skip
    return found


def _alone(run: SearchRun, already: Vector, at: int, ratio: float) -> Vector:
    """One layer loses a share of what it has left."""
    vector = np.array(already)
    vector[at] = min(already[at] + (1 - already[at]) * ratio, run.variables[at].most)
    return vector
