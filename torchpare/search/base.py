"""What every search does around its strategy: looks at the dense model, counts, keeps a journal, masks the model.

A search is a pruner: ``compress()`` masks the model to the sparsities that the search found, and all that can be done
with a masked model can be done with this one. A strategy is one method, `SearchPruner.search`.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from torch import Tensor, nn

from torchpare.attach import attach_masks, detach, masks_of
from torchpare.config import SearchEntry, Target, read_entries
from torchpare.errors import ConfigError
from torchpare.files.atomic import atomic_write
from torchpare.graph import analyse
from torchpare.pruning.data_driven import DataDrivenPruner
from torchpare.pruning.granularity import most_of
from torchpare.pruning.ranked import Criterion, RankedPruner
from torchpare.pruning.training import checked_batches
from torchpare.search.arguments import check_arguments, number
from torchpare.search.costs import Costs
from torchpare.search.executors import Executors, executor_of
from torchpare.search.fingerprint import of_code, of_example, of_model
from torchpare.search.first_batch import first_batch
from torchpare.search.journal import Journal, alone_in, digest
from torchpare.search.objective import Metric, Objective, objective_of
from torchpare.search.run import SearchRun, Trial, gain_of, progress_bar
from torchpare.search.trial import Bench, seeded
from torchpare.search.variables import Layer, variables_of
from torchpare.types import Masks

__all__ = ["SearchOptions", "SearchPruner"]

log = logging.getLogger(__name__)


class SearchOptions(TypedDict, total=False):
    """What every search may be told; see :class:`SearchPruner`."""

    objective: Objective | Metric | None
    executor: Executors
    seed: int
    max_sparsity: float
    round_to: int | None
    resume: bool


class SearchPruner(RankedPruner):
    """Base of the pruners that search how much each layer can lose.

    The ``sparsity`` of the first entry of the ``config_list`` is the overall share that has to go; the entries say from
    which layers. With a limit of its own in ``objective`` no entry needs one. Layers that share channels get one
    sparsity together.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.SearchEntry`.
        evaluator: ``evaluator(model) -> float``: how good a candidate is. It is given shrunk copies of the model.
        optimize_mode: ``"maximize"`` or ``"minimize"`` what the evaluator says.
        base_algo: what goes within a layer: ``"level"``, ``"l1"``, ``"l2"``, ``"fpgm"``, ``"random"``, or a pruner
            class of your own that looks at weights.
        experiment_data_dir: where the journal and ``search_result.json`` are written.
        fine_tuner: ``fine_tuner(model)`` trains a masked candidate a little before it is evaluated.
        objective: what the result may cost: ``"sparsity"``, ``"params"``, ``"macs"``, ``"latency"``, or an
            :class:`Objective`.
        dummy_input: an example input: what candidates are shrunk with and timed on. Without it the first batch that the
            evaluator gives the model serves.
        executor: who runs the trials: ``"serial"``, ``"processes"``, ``"ray"``, or an :class:`Executor`.
        seed: of every random number, also those that the evaluator and the fine-tuner draw.
        max_sparsity: what no layer goes beyond, in (0, 1); each keeps one unit in any case.
        round_to: layers keep multiples of this number of units, where they have as many; what the entries say, or 1, if
            not given. Kernels are made for widths that are multiples of 8 or 16: with others a small model may be
            slower than the dense one.
        resume: False begins anew where a journal of the same search is found.

    Raises:
        ConfigError: as every pruner, or an argument cannot be used, or nothing says how much has to go.
    """

    entry = SearchEntry

    @property
    def takes_structures(self) -> bool:
        """No: what a search shares out is what layers lose."""
        return False

    def __init__(  # noqa: PLR0913 - one for each thing that a search may be told
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        evaluator: Callable[..., Any],
        *,
        optimize_mode: str = "maximize",
        base_algo: Criterion = "l1",
        experiment_data_dir: str | os.PathLike[str] = "./",
        fine_tuner: Callable[[nn.Module], Any] | None = None,
        objective: Objective | Metric | None = None,
        dummy_input: Any = None,
        executor: Executors = "serial",
        seed: int = 0,
        max_sparsity: float = 0.99,
        round_to: int | None = None,
        resume: bool = True,
    ) -> None:
        name = type(self).__name__
        super().__init__(model, config_list, base_algo, None, False, dummy_input)
        if isinstance(self.ranking, DataDrivenPruner):
            raise ConfigError(f"{name} tries many candidates, for which criteria that look at data in training are too "
                              "slow: base_algo is 'level', 'l1', 'l2', 'fpgm' or 'random'")  # fmt: skip
        check_arguments(name, evaluator, fine_tuner, optimize_mode, seed, max_sparsity)
        self.objective = objective_of(objective)
        if not self.structured and self.objective.metric != "sparsity":
            raise ConfigError(f"{name}: without single weights a model has as many parameters and operations as "
                              "before, so with base_algo='level' the objective is 'sparsity'")  # fmt: skip
        if not isinstance(experiment_data_dir, str | os.PathLike) or not Path(experiment_data_dir).is_dir():
            raise ConfigError(f"{name}: there is no folder {str(experiment_data_dir)!r} for experiment_data_dir; make "
                              "it first")  # fmt: skip
        self.evaluator, self.fine_tuner, self.optimize_mode = evaluator, fine_tuner, optimize_mode
        self.base_algo, self.max_sparsity, self.seed, self.resume = base_algo, max_sparsity, seed, resume
        self.round_to = checked_batches(name, "round_to", self._round_of_entries() if round_to is None else round_to)
        self.executor = executor_of(executor)
        self.folder = Path(experiment_data_dir)
        asked = (entry.sparsity for entry in read_entries(config_list, self.entry) if entry.sparsity is not None)
        self.sparsity = self._share_to_go(next(asked, None))
        self._kind_of_example = of_example(dummy_input)  # as it was given: a search without one finds its own
        self._found: dict[str, float] = {}
        self._kept_scores: dict[str, Tensor] = {}

    def _share_to_go(self, asked: float | None) -> float:
        """Of the dense model's cost, what the entries ask to take away; without a meaning where a limit is given."""
        if asked is None and self.objective.limit is None:
            metric = self.objective.metric
            raise ConfigError(f"{type(self).__name__}: nothing says how much has to go: add 'sparsity': 0.5 to "
                              f"config_list[0] for half of the {metric}, or give a limit, as in "
                              f"objective=Objective({metric!r}, limit=...)")  # fmt: skip
        return asked or 0.0

    def _round_of_entries(self) -> int:
        return max((target.entry.round_to or 1 for target in self.targets.values()), default=1)

    @abstractmethod
    def search(self, run: SearchRun) -> Trial:
        """Find the sparsities, and return the trial that is to be the result."""

    def settings(self) -> dict[str, Any]:
        """What this strategy was told, JSON-able: searches that differ here do not share a journal."""
        return {}

    def sparsities(self) -> dict[str, float]:
        """What was found, or what is being tried."""
        return dict(self._found)

    def get_config_list(self) -> list[dict[str, Any]]:
        """What was found, as a ``config_list`` for the pruner that ``base_algo`` names."""
        return self.config_of(self._found)

    def config_of(self, sparsities: Mapping[str, float]) -> list[dict[str, Any]]:
        """Sparsities of layers as a ``config_list``."""
        return [_entry_of(self.targets[name], sparsity) for name, sparsity in sparsities.items() if sparsity > 1e-6]

    # ---------------------------------------------------------------------------------------------------- at work

    def begin(self) -> None:
        """Search, and mask the model to what was found. On any error the model is as it was."""
        masks, state = masks_of(self.bound_model), _copied(self.bound_model)
        modes = [(module, module.training) for module in self.bound_model.modules()]
        try:
            with self._at_work() as run:
                best = self.search(run)
                self._found = run.sparsities(best.vector)
                self._kept_scores.clear()
                self.mask()
                self.finish(run, best)
        except BaseException:
            self._found = {}
            detach(self.bound_model, bake=False)
            attach_masks(self.bound_model, masks)
            self.bound_model.load_state_dict(state)
            raise
        finally:  # evaluators and trainers leave the model in theirs
            for module, training in modes:
                module.training = training

    def finish(self, run: SearchRun, best: Trial) -> None:
        """Write down what was found; of the trained weights, the result's stay, so that it can be had again."""
        if not math.isfinite(best.score):
            log.warning("%s: the evaluator said %s of the result: it is as good as drawn by lot", type(self).__name__,
                        best.score)  # fmt: skip
        result = {"performance": _plain(best.score), "cost": best.cost, "config_list": self.get_config_list()}
        with atomic_write(self.folder / "search_result.json") as lent:
            lent.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        run.journal.drop_states(keep=best.key)

    @contextmanager
    def _at_work(self) -> Iterator[SearchRun]:
        search = self._described()
        folder = self.folder / f"{type(self).__name__}-{digest(search)[:12]}"
        with alone_in(folder):
            run = self._run(Journal(folder, search, resume=self.resume))
            try:
                with run.progress:
                    yield run
            finally:
                self.executor.close()

    def _run(self, journal: Journal) -> SearchRun:
        name = type(self).__name__
        score = self._look_at_dense(journal)
        example = self.dummy_input
        if self.structured and example is not None and self._space is None:
            self._space = analyse(self.bound_model, example)
        self.dependency_aware = self._space is not None
        if self.objective.metric != "sparsity" and self._space is None:
            raise ConfigError(f"{name}: the objective {self.objective.metric!r} needs an example: give dummy_input")
        layers = {name: self._layer(target) for name, target in self.targets.items()}
        variables = variables_of(layers, self._space)
        if not variables:
            raise ConfigError(f"{name}: of the layers in the config_list none can lose anything; see torchpare.plan")
        bench = Bench(self.bound_model, self.evaluator, self.fine_tuner, example, self.structured,
                      self.fine_tuner is not None)  # fmt: skip
        costs = Costs(self.objective, layers, self._masks_for, bench, self._space, journal)
        maximize = self.optimize_mode == "maximize"
        most = np.array([min(variable.most, self.max_sparsity) for variable in variables])
        cost = costs.of(dict.fromkeys(layers, 0.0))
        dense = Trial(np.zeros(len(variables)), score, gain_of(score, maximize), cost, "dense")
        limit = self.objective.limit_for(cost, self.sparsity)
        return SearchRun(
            bench, variables, tuple(layers), costs, limit, dense, maximize, self.seed, most,
            self.round_to, journal, self.executor, progress_bar(name),
        )  # fmt: skip

    def _described(self) -> dict[str, Any]:
        return {
            "search": type(self).__name__,
            "settings": self.settings(),
            "objective": self.objective.described(),
            "config_list": [{"layer": n, **t.entry.model_dump(mode="json")} for n, t in self.targets.items()],
            "base_algo": self.base_algo if isinstance(self.base_algo, str) else self.base_algo.__qualname__,
            "optimize_mode": self.optimize_mode,
            "max_sparsity": self.max_sparsity,
            "round_to": self.round_to,
            "seed": self.seed,
            "evaluator": of_code(self.evaluator),
            "fine_tuner": of_code(self.fine_tuner),
            "model": of_model(self.bound_model),
            "example": self._kind_of_example,
        }

    def _look_at_dense(self, journal: Journal) -> float:
        """The score before the search; and, where there is no example input, the first batch of the evaluator."""
        known = "dense" in journal
        if known and (self.dummy_input is not None or not self.structured):
            return journal.number("dense", "score")
        model = copy.deepcopy(self.bound_model)  # evaluators that forget model.eval() move the statistics of norms
        with seeded(self.seed), first_batch(model) as seen:
            score = number(type(self).__name__, self.evaluator(model))
        if self.dummy_input is None and seen and self.structured:
            self.dummy_input = seen[0]
        if not known:
            journal.write("dense", score=score)
        return journal.number("dense", "score")

    def _layer(self, target: Target) -> Layer:
        weight = target.module._parameters["weight"]  # noqa: SLF001 - its shape
        assert weight is not None
        units = len(self._unit(target).fold(weight)) if self.structured else weight.numel()
        return Layer(units, weight.numel(), most_of(target))

    def _masks_for(self, sparsities: Mapping[str, float]) -> Masks:
        found, self._found = self._found, dict(sparsities)
        try:
            return self._own_masks(self._space)
        finally:
            self._found = found

    def _scores(self, target: Target, existing: Masks) -> Tensor:
        """As every pruner, worked out once for as long as the weights stay as they are."""
        weight = target.module._parameters["weight"]  # noqa: SLF001 - whether it was written to
        assert weight is not None
        mask = existing.get(target.name, {}).get("weight")
        key = f"{target.name} {weight._version} {-1 if mask is None else int(mask.sum())}"  # noqa: SLF001 - as above
        if key not in self._kept_scores:
            self._kept_scores[key] = super()._scores(target, existing)
        return self._kept_scores[key]


def _copied(model: nn.Module) -> dict[str, Any]:
    return {key: v.detach().clone() if isinstance(v, Tensor) else v for key, v in model.state_dict().items()}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON knows no others


def _entry_of(target: Target, sparsity: float) -> dict[str, Any]:
    """What makes the masks of a layer again: how much goes, and what goes as a whole where its entry says so."""
    granularity, said = target.entry.granularity, {}
    if granularity is not None:
        said["granularity"] = granularity if isinstance(granularity, str) else list(granularity)
    if ":" in str(granularity):
        sparsity = target.sparsity  # the pattern's own, whatever was searched for
    return {"sparsity": sparsity, "op_types": [target.type], "op_names": [target.name], **said}
