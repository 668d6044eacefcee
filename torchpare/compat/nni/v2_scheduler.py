"""``PruningScheduler`` and its task generators of NNI 2.5 to 2.10: rounds, said in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.forms import evaluator_form
from torchpare.compat.nni.v2_pruning import StatisticsPruner, V2Pruner
from torchpare.compat.nni.v2_rounds import AGPPruner, LinearPruner, LotteryTicketPruner, RoundsPruner
from torchpare.compat.nni.v2_trained import SlimPruner
from torchpare.errors import CompatError, ConfigError
from torchpare.pruning.ranked import CRITERIA

__all__ = ["AGPTaskGenerator", "LinearTaskGenerator", "LotteryTicketTaskGenerator", "PruningScheduler"]


class _TaskGenerator:
    """How much to prune in each round.

    Args:
        total_iteration: how many rounds.
        origin_model: the model; the scheduler's pruner has it too.
        origin_config_list: what to prune in the end.
        origin_masks: must be empty: masks of the model are on it.
        log_dir: not needed.
        keep_intermediate_result: not needed.
        skip_first_iteration: not needed: a round that prunes nothing is skipped in any case.
    """

    kind: ClassVar[Any]
    """The pruner whose rounds these are."""

    def __init__(
        self,
        total_iteration: int,
        origin_model: nn.Module,
        origin_config_list: Any,
        origin_masks: Mapping[str, Any] | None = None,
        log_dir: str = ".",
        keep_intermediate_result: bool = False,
        skip_first_iteration: bool = False,
    ) -> None:
        del skip_first_iteration
        if origin_masks:
            raise CompatError(f"{type(self).__name__}: origin_masks: put them on the model, by a pruner's load_masks")
        if log_dir != "." or keep_intermediate_result:
            tell("rounds_log")
        self.total_iteration, self.model, self.config_list = total_iteration, origin_model, origin_config_list


class LinearTaskGenerator(_TaskGenerator):
    """As much in each round; the arguments are those of `AGPTaskGenerator`."""

    kind = LinearPruner


class LotteryTicketTaskGenerator(_TaskGenerator):
    """The same share of what is left in each round; the arguments are those of `AGPTaskGenerator`."""

    kind = LotteryTicketPruner


class AGPTaskGenerator(_TaskGenerator):
    """Much at first and little at the end.

    Args:
        total_iteration: how many rounds.
        origin_model: the model; the scheduler's pruner has it too.
        origin_config_list: what to prune in the end.
        origin_masks: must be empty: masks of the model are on it.
        log_dir: not needed.
        keep_intermediate_result: not needed.
        skip_first_iteration: not needed: a round that prunes nothing is skipped in any case.
    """

    kind = AGPPruner


class PruningScheduler:
    """Prunes in rounds, by a pruner's criterion and a generator's shares.

    Args:
        pruner: what goes: a pruner that has not pruned yet.
        task_generator: how much goes in each round.
        finetuner: ``finetuner(model)`` trains after each mask.
        speedup: make the model small after the last round; ``speed_up`` is the same.
        dummy_input: an example input, for ``speedup``.
        evaluator: ``evaluator(model) -> float``, or an evaluator of 2.9.
        reset_weight: rounds begin with the weights of the first one; with a `LotteryTicketTaskGenerator` alone.

    Raises:
        CompatError: the pruner's criterion cannot be used in rounds.
        ConfigError: as the pruners that go in rounds.
    """

    def __init__(
        self,
        pruner: V2Pruner,
        task_generator: _TaskGenerator,
        finetuner: Callable[[nn.Module], Any] | None = None,
        speedup: bool = False,
        dummy_input: Any = None,
        evaluator: Any = None,
        reset_weight: bool = False,
        *,
        speed_up: bool = False,
    ) -> None:
        if not isinstance(task_generator, _TaskGenerator):
            raise CompatError("PruningScheduler: task_generator is an AGPTaskGenerator, a LinearTaskGenerator or a "
                              "LotteryTicketTaskGenerator")  # fmt: skip
        lottery = task_generator.kind is LotteryTicketPruner
        if reset_weight and not lottery:
            raise ConfigError("PruningScheduler: reset_weight goes with a LotteryTicketTaskGenerator")
        named: dict[str, Any] = {"reset_weight": reset_weight} if lottery else {}
        if not evaluator_form((evaluator,), {}):
            named |= {"finetuner": finetuner, "dummy_input": dummy_input}
        self.pruner = task_generator.kind(
            task_generator.model,
            task_generator.config_list,
            _criterion(pruner),
            task_generator.total_iteration,
            evaluator=evaluator,
            speedup=speedup or speed_up,
            pruning_params=_parameters(pruner, dummy_input),
            **named,
        )  # fmt: skip

    def compress(self) -> None:
        """Go through all rounds."""
        self.pruner.compress()

    def get_best_result(self) -> Any:
        """``(round, model, masks, score, config_list)`` of the best round; of the last, where nobody evaluates."""
        return self.pruner.get_best_result()


def _criterion(pruner: Any) -> str:
    for word, kind in CRITERIA.items():
        if isinstance(pruner, V2Pruner) and isinstance(pruner, kind) and not isinstance(pruner, RoundsPruner):
            return word
    raise CompatError(f"PruningScheduler: pruner is a {type(pruner).__name__}; rounds prune by LevelPruner, "
                      "L1NormPruner, L2NormPruner, FPGMPruner, SlimPruner, TaylorFOWeightPruner, "
                      "ActivationAPoZRankPruner or ActivationMeanRankPruner")  # fmt: skip


def _parameters(pruner: V2Pruner, dummy_input: Any) -> dict[str, Any]:
    """What the pruner was told, for each round."""
    example = pruner.dummy_input if dummy_input is None else dummy_input
    found: dict[str, Any] = {"mode": "dependency_aware" if pruner.dependency_aware else "normal"}
    if example is not None and pruner.structured:
        found["dummy_input"] = example
    if isinstance(pruner, SlimPruner):
        found |= {"training_epochs": pruner.epochs, "scale": pruner.scale}
    if isinstance(pruner, StatisticsPruner):
        found["training_steps"] = pruner.batches
    if isinstance(pruner, StatisticsPruner | SlimPruner):
        if isinstance(pruner.evaluator, Evaluator):
            found["evaluator"] = pruner.evaluator
        elif pruner.training is not None:
            training = pruner.training
            found |= {"trainer": training.trainer, "traced_optimizer": training.optimizer,
                      "criterion": training.criterion}  # fmt: skip
    return found
