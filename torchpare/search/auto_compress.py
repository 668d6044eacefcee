"""AutoCompress: anneal how much each layer loses, train towards it by ADMM, and again with what is left."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import nn

from torchpare.attach import masks_of
from torchpare.errors import ConfigError
from torchpare.pruning.admm import ADMMPruner
from torchpare.pruning.ranked import Criterion
from torchpare.pruning.training import checked_batches
from torchpare.search.base import SearchOptions, SearchPruner
from torchpare.search.fingerprint import of_code
from torchpare.search.run import SearchRun, Trial
from torchpare.search.simulated_annealing import Annealing, anneal
from torchpare.speedup import ModelSpeedup

__all__ = ["AutoCompressPruner"]

log = logging.getLogger(__name__)


class AutoCompressPruner(SearchPruner):
    """In each round anneals the sparsities, trains the weights towards them by ADMM, and prunes; at the end it shrinks.

    Liu, Ma, Xu, Wang, Tang, Ye, "AutoCompress: An Automatic DNN Structured Pruning Framework for Ultra-High Compression
    Rates", AAAI 2020. Round ``i`` of ``n`` comes down to the ``i/n``-th power of what is to be left.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; the first one's ``sparsity`` is the overall share that has to go.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch.
        evaluator: ``evaluator(model) -> float``, of a shrunk copy.
        dummy_input: an example input.
        criterion: handed to the trainer.
        num_iterations: how many rounds.
        optimize_mode: ``"maximize"`` or ``"minimize"``.
        base_algo: what goes within a layer.
        start_temperature: as :class:`SimulatedAnnealingPruner`.
        stop_temperature: likewise.
        cool_down_rate: likewise.
        perturbation_magnitude: likewise.
        admm_num_iterations: how often ADMM looks for the nearest sparse weights in a round.
        admm_epochs_per_iteration: epochs of training between; ``admm_training_epochs`` is the same.
        row: the weight of ADMM's penalty.
        experiment_data_dir: where the journal and ``search_result.json`` are written.
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
        trainer: Callable[..., Any],
        evaluator: Callable[[nn.Module], Any],
        dummy_input: Any,
        criterion: Any = None,
        num_iterations: int = 3,
        optimize_mode: str = "maximize",
        base_algo: Criterion = "l1",
        start_temperature: float = 100,
        stop_temperature: float = 20,
        cool_down_rate: float = 0.9,
        perturbation_magnitude: float = 0.35,
        admm_num_iterations: int = 30,
        admm_epochs_per_iteration: int = 5,
        row: float = 1e-4,
        experiment_data_dir: str | os.PathLike[str] = "./",
        *,
        admm_training_epochs: int | None = None,
        **options: Unpack[SearchOptions],
    ) -> None:
        super().__init__(
            model, config_list, evaluator, optimize_mode=optimize_mode, base_algo=base_algo,
            experiment_data_dir=experiment_data_dir, dummy_input=dummy_input, **options,
        )  # fmt: skip
        if not callable(trainer):
            raise ConfigError(f"AutoCompressPruner: trainer is a {type(trainer).__name__}; it is a function that "
                              "trains the model for an epoch")  # fmt: skip
        epochs = admm_epochs_per_iteration if admm_training_epochs is None else admm_training_epochs
        self.num_iterations = checked_batches("AutoCompressPruner", "num_iterations", num_iterations)
        self.cooling = Annealing(start_temperature, stop_temperature, cool_down_rate, perturbation_magnitude)
        self.trainer, self.criterion, self.row = trainer, criterion, row
        self.admm_num_iterations = checked_batches("AutoCompressPruner", "admm_num_iterations", admm_num_iterations)
        self.admm_epochs = checked_batches("AutoCompressPruner", "admm_epochs_per_iteration", epochs)

    def settings(self) -> dict[str, Any]:
        """Rounds, temperatures, and how ADMM trains."""
        own = (self.num_iterations, self.admm_num_iterations, self.admm_epochs, self.row)
        functions = [of_code(self.trainer), of_code(self.criterion)]
        return {"cooling": vars(self.cooling), "rounds": list(own), "training": functions}

    def search(self, run: SearchRun) -> Trial:
        """Anneal, train and prune by turns."""
        run.check_reachable()
        done, now = run.last_stage("round")
        for number in range(done + 1, self.num_iterations + 1):
            limit = run.dense.cost * (run.limit / run.dense.cost) ** (number / self.num_iterations)
            history = anneal(run, self.cooling, f"round {number}", limit, now)
            best = max(history, key=lambda trial: trial.gain)
            run = run.train(f"round {number}", functools.partial(self._train_towards, run.sparsities(best.vector)))
            (now,) = run.try_all(f"round {number}, trained", [best.vector])
            run, now = run.end_stage("round", number, now)
            log.info("round %d: cost %.6g of at most %.6g, score %.6g", number, now.cost, run.limit, now.score)
        return now

    def compress(self) -> nn.Module:
        """Search, train and prune the model, make it small, and return it, the same object.

        Raises:
            ProofError: the small model differs from the masked one, which the model then still is.
        """
        already = self._compressed
        model = super().compress()
        if not already and self.structured and self._space is not None:
            masks = masks_of(model)
            ModelSpeedup(model, self.dummy_input).speedup_model()
            self._unwrapped = masks  # for `export_model`, which writes them beside the small model's weights
        return model

    def _train_towards(self, sparsities: Mapping[str, float]) -> None:
        entries = self.config_of(sparsities)
        optimizer = torch.optim.Adam(self.bound_model.parameters(), lr=1e-3, weight_decay=5e-5)
        ADMMPruner(
            self.bound_model, entries, self.trainer, self.criterion, self.admm_num_iterations, self.admm_epochs,
            self.row, self.base_algo, optimizer=optimizer, dependency_aware=self.dependency_aware,
            dummy_input=self.dummy_input if self.structured else None,
        ).compress()  # fmt: skip
