"""The pruners of NNI 2.5 to 2.10 that search how much each layer can lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchpare import search
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.forms import called_with, without_epoch
from torchpare.compat.nni.v2_config import entries_of_v2
from torchpare.compat.nni.v2_pruning import V2Pruner
from torchpare.errors import CompatError, ConfigError
from torchpare.pruning import LevelPruner
from torchpare.pruning.ranked import CRITERIA
from torchpare.speedup import ModelSpeedup

__all__ = ["AMCPruner", "AutoCompressPruner", "SimulatedAnnealingPruner"]

_TEMPERATURES = ("start_temperature", "stop_temperature", "cool_down_rate", "perturbation_magnitude")


class _Searching(V2Pruner, search.SearchPruner):
    """What pruners that search have in common."""

    speedup = False

    def compress(self) -> Any:
        """Search, mask the model, make it small if asked for, and return ``(model, masks)``."""
        already = self._compressed
        search.SearchPruner.compress(self)
        if self.speedup and not already:
            self._unwrapped = self.get_masks()
            ModelSpeedup(self.bound_model, self.dummy_input).speedup_model()
        return self.bound_model, self.found_masks()

    def get_best_result(self) -> tuple[int, nn.Module, Any, Any, Any]:
        """``(0, model, masks, None, config_list)`` of the best candidate; its score is in ``search_result.json``."""
        return 0, self.bound_model, self.found_masks(), None, self.config_list

    def small_if(self, speedup: bool) -> None:
        """Remember whether to make the model small."""
        self.speedup = speedup
        if speedup and self.dummy_input is None:
            raise ConfigError(f"{type(self).__name__}: speedup=True makes the model small, which needs dummy_input")
        if speedup:
            tell("rounds_speedup")


class SimulatedAnnealingPruner(_Searching, search.SimulatedAnnealingPruner):
    """Searches by annealing; the arguments are NNI's.

    Args:
        model: what to prune; it ends up masked.
        config_list: entries in the words of NNI or torchpare.
        evaluator: ``evaluator(model) -> float``, or an evaluator of 2.9.
        start_temperature, stop_temperature, cool_down_rate, perturbation_magnitude: of the annealing.
        pruning_algorithm: what goes within a layer.
        pruning_params: must be empty, or say a ``dummy_input``.
        log_dir: where the journal and the result are written.
        keep_intermediate_result: not needed.
        finetuner: trains a masked candidate a little before it is evaluated.
        speedup: make the model small at the end.
        dummy_input: an example input.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of NNI
        self,
        model: nn.Module,
        config_list: Any,
        evaluator: Callable[[nn.Module], Any] | Evaluator,
        start_temperature: float = 100,
        stop_temperature: float = 20,
        cool_down_rate: float = 0.9,
        perturbation_magnitude: float = 0.35,
        pruning_algorithm: str = "level",
        pruning_params: Mapping[str, Any] | None = None,
        log_dir: str = ".",
        keep_intermediate_result: bool = False,
        finetuner: Callable[[nn.Module], Any] | bool | None = None,
        speedup: bool = False,
        dummy_input: Any = None,
    ) -> None:
        del keep_intermediate_result
        if isinstance(finetuner, bool):  # as 2.9 has it: (..., keep_intermediate_result, speedup)
            finetuner, speedup = None, finetuner
        super().__init__(
            model, _entries(model, config_list, pruning_algorithm), _scored(evaluator),
            base_algo=pruning_algorithm, start_temperature=start_temperature,
            stop_temperature=stop_temperature, cool_down_rate=cool_down_rate,
            perturbation_magnitude=perturbation_magnitude, experiment_data_dir=log_dir, fine_tuner=finetuner,
            dummy_input=_example(evaluator, dummy_input, pruning_params),
        )  # fmt: skip
        self.small_if(speedup)


class AutoCompressPruner(_Searching, search.AutoCompressPruner):
    """Anneals, trains by ADMM and shrinks, in rounds; the arguments are NNI's.

    Args:
        model: what to prune; it ends up small.
        config_list: entries in the words of NNI or torchpare.
        total_iteration: how many rounds.
        admm_params: ``trainer``, ``criterion``, ``iterations``, ``training_epochs``; or an ``evaluator`` of 2.9.
        sa_params: ``evaluator``, ``pruning_algorithm`` and the temperatures.
        log_dir: where the journal and the result are written.
        keep_intermediate_result, finetuner, speedup: not needed: each round trains, and the result is small.
        dummy_input: an example input; needed.
        evaluator: in place of the one in ``sa_params``.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of NNI
        self,
        model: nn.Module,
        config_list: Any,
        total_iteration: int,
        admm_params: Mapping[str, Any],
        sa_params: Mapping[str, Any],
        log_dir: str = ".",
        keep_intermediate_result: bool = False,
        finetuner: Callable[[nn.Module], Any] | Evaluator | None = None,
        speedup: bool = False,
        dummy_input: Any = None,
        evaluator: Any = None,
    ) -> None:
        if isinstance(finetuner, Evaluator):  # as 2.9 has it: (..., keep_intermediate_result, evaluator, speedup)
            evaluator = finetuner
        del keep_intermediate_result, finetuner, speedup
        judge = sa_params.get("evaluator", evaluator)
        base_algo = sa_params.get("pruning_algorithm", "l1")
        theirs = evaluator if isinstance(evaluator, Evaluator) else None
        trains = admm_params.get("trainer", admm_params.get("evaluator", theirs))
        optimizer = trains.optimizer if isinstance(trains, Evaluator) else None
        if isinstance(trains, Evaluator) and optimizer is not None:
            raise CompatError("AutoCompressPruner trains candidates, whose weights no optimizer of an evaluator has: "
                              "give admm_params a trainer(model, optimizer, criterion)")  # fmt: skip
        super().__init__(
            model, _entries(model, config_list, base_algo), without_epoch(trains), _scored(judge),
            _example(judge, dummy_input, sa_params),
            admm_params.get("criterion"), total_iteration, base_algo=base_algo,
            admm_num_iterations=admm_params.get("iterations", 30),
            admm_epochs_per_iteration=admm_params.get("training_epochs", 5), experiment_data_dir=log_dir,
            **{key: sa_params[key] for key in _TEMPERATURES if key in sa_params},
        )  # fmt: skip

    def compress(self) -> Any:
        """Search, train, prune and shrink, and return ``(model, masks)``."""
        self.tell_changes()
        search.AutoCompressPruner.compress(self)
        return self.bound_model, self.found_masks()


class AMCPruner(_Searching, search.AMCPruner):
    """Searches by an agent that learns; the arguments are NNI's.

    Args:
        total_episode: how many candidates the agent tries.
        model: what to prune; it ends up masked.
        config_list: entries; ``total_sparsity`` is the share of the operations that goes.
        args, named: ``(dummy_input, evaluator, pruning_algorithm="l1", log_dir=".", keep_intermediate_result=False,
            finetuner=None, ddpg_params={}, pruning_params={}, target="flops")``, or, with an evaluator of 2.9, which
            has an example input, ``(evaluator, pruning_algorithm="l1", log_dir=".", keep_intermediate_result=False,
            ddpg_params={}, pruning_params={}, target="flops")``. ``evaluator(model)`` returns a number; ``finetuner``
            trains a masked candidate a little before that; ``target`` is ``"flops"`` or ``"params"``.
    """

    def __init__(self, total_episode: int, model: nn.Module, config_list: Any, *args: Any, **named: Any) -> None:
        later = isinstance(args[0], Evaluator) if args else "dummy_input" not in named
        given = called_with("AMCPruner", _agent_by_evaluator if later else _agent, args, named)
        evaluator, algorithm = given["evaluator"], given["pruning_algorithm"]
        super().__init__(
            total_episode, model, _entries(model, config_list, algorithm),
            _example(evaluator, given["dummy_input"], given["pruning_params"]), _scored(evaluator),
            pruning_algorithm=algorithm, log_dir=given["log_dir"], finetuner=given["finetuner"],
            ddpg_params=dict(given["ddpg_params"] or {}), target=given["target"],
        )  # fmt: skip


def _agent(dummy_input: Any, evaluator: Any, pruning_algorithm: str = "l1", log_dir: str = ".",
           keep_intermediate_result: bool = False, finetuner: Any = None, ddpg_params: Mapping[str, Any] | None = None,
           pruning_params: Mapping[str, Any] | None = None, target: str = "flops") -> dict[str, Any]:  # fmt: skip
    del keep_intermediate_result
    return {"dummy_input": dummy_input, "evaluator": evaluator, "pruning_algorithm": pruning_algorithm,
            "log_dir": log_dir, "finetuner": finetuner, "ddpg_params": ddpg_params, "pruning_params": pruning_params,
            "target": target}  # fmt: skip


def _agent_by_evaluator(evaluator: Any, pruning_algorithm: str = "l1", log_dir: str = ".",
                        keep_intermediate_result: bool = False, ddpg_params: Mapping[str, Any] | None = None,
                        pruning_params: Mapping[str, Any] | None = None, target: str = "flops"
                        ) -> dict[str, Any]:  # fmt: skip
    return _agent(None, evaluator, pruning_algorithm, log_dir, keep_intermediate_result, None, ddpg_params,
                  pruning_params, target)  # fmt: skip


def _entries(model: nn.Module, config_list: Any, algorithm: str) -> Any:
    """Entries in our words, which a search reads more than once."""
    return entries_of_v2(model, config_list, CRITERIA.get(algorithm, LevelPruner).supported)


def _scored(evaluator: Any) -> Any:
    """An evaluator of any version as a function of the model."""
    return evaluator.score if isinstance(evaluator, Evaluator) else evaluator


def _example(evaluator: Any, dummy_input: Any, parameters: Mapping[str, Any] | None) -> Any:
    known = ("dummy_input", "evaluator", "pruning_algorithm", *_TEMPERATURES)
    for key in parameters or {}:
        if key not in known:
            raise CompatError(f"{key!r} has no counterpart among the parameters of a search here; there are "
                              f"{', '.join(known)}")  # fmt: skip
    own = evaluator.dummy_input if isinstance(evaluator, Evaluator) else None
    given = (dummy_input, (parameters or {}).get("dummy_input"), own)
    return next((one for one in given if one is not None), None)
