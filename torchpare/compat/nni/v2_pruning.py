"""The pruners of NNI 2.5 to 2.10: ``compress()`` returns model and masks, and an evaluator may train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from torchpare import pruning
from torchpare.attach import attach_masks
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.forms import (
    called_with,
    evaluator_form,
    example_of,
    with_traced,
    without_epoch,
)
from torchpare.compat.nni.legacy_pruning import LegacyPruner
from torchpare.compat.nni.v2_config import entries_of_v2
from torchpare.compat.nni.views import WrapperView, full_masks
from torchpare.errors import CompatError
from torchpare.files.masks import fit_masks
from torchpare.pruning.data_driven import DataDrivenPruner
from torchpare.pruning.granularity import check_mode
from torchpare.pruning.ranked import RankedPruner

__all__ = [
    "ActivationAPoZRankPruner",
    "ActivationMeanRankPruner",
    "FPGMPruner",
    "L1NormPruner",
    "L2NormPruner",
    "LevelPruner",
    "StatisticsPruner",
    "TaylorFOWeightPruner",
    "V2Pruner",
]


class V2Pruner(LegacyPruner):
    """What every pruner of NNI 2.5 to 2.10 had beside its algorithm."""

    evaluator: Any = None

    def find_targets(self, model: nn.Module, config_list: Any) -> Any:
        """The layers that the ``config_list`` selects, which may be in NNI's words."""
        return super().find_targets(model, entries_of_v2(model, config_list, self.supported))

    def compress(self) -> Any:
        """Mask the model, and return ``(model, masks)``: masks of zeros and ones of the parameters' shapes."""
        super().compress()
        return self.bound_model, self.found_masks()

    def found_masks(self) -> dict[str, dict[str, Tensor]]:
        """The masks in NNI's form; of a model that is small already, those it had, of size 1 where they do not vary."""
        unwrapped = {name: {key: mask.float() for key, mask in own.items()} for name, own in self._unwrapped.items()}
        return full_masks(self.bound_model) or unwrapped

    def get_modules_wrapper(self) -> dict[str, WrapperView]:
        """Views of the selected layers, by name."""
        return {view.name: view for view in super().get_modules_wrapper()}

    def reset(self, model: nn.Module | None = None, config_list: Any = None) -> None:  # type: ignore[override] - NNI's own
        """Take all masks off, and begin anew with this model and ``config_list``, or with those that there were.

        Raises:
            CompatError: the pruner goes in rounds or searches.
            ConfigError: the ``config_list`` cannot be used.
        """
        name = type(self).__name__
        if isinstance(self, RankedPruner):
            raise CompatError(f"{name} cannot be reset: make it anew, with the model and the config_list")
        asked = self.config_list if config_list is None else config_list
        chosen = self.bound_model if model is None else model
        targets = self.find_targets(chosen, asked)
        shared = self.shared or self.mode == "global"
        check_mode(name, targets, self.structured, self.mode, self.balance_gran, self.group_score, shared)
        super().reset()
        self.bound_model, self.config_list, self.targets, self._views = chosen, asked, targets, None

    def load_masks(self, masks: Mapping[str, Mapping[str, Tensor | None]]) -> None:
        """Put masks on the model.

        Raises:
            MaskError: they do not fit it; it is as it was.
        """
        attach_masks(self.bound_model, fit_masks(masks, self.bound_model))


class LevelPruner(V2Pruner, pruning.LevelPruner):
    """As :class:`torchpare.pruning.LevelPruner`, which has the arguments."""


class L1NormPruner(V2Pruner, pruning.L1FilterPruner):
    """As :class:`torchpare.pruning.L1FilterPruner`, which has the arguments."""


class L2NormPruner(V2Pruner, pruning.L2FilterPruner):
    """As :class:`torchpare.pruning.L2FilterPruner`, which has the arguments."""


class FPGMPruner(V2Pruner, pruning.FPGMPruner):
    """As :class:`torchpare.pruning.FPGMPruner`, which has the arguments."""


class StatisticsPruner(V2Pruner, DataDrivenPruner):
    """A pruner that asks data, which an evaluator's training shows."""

    evaluator: Evaluator | None = None

    def begin(self) -> None:
        """Watch while the evaluator trains, and mask; with a trainer of the user's, as ever."""
        if self.evaluator is None:
            super().begin()
            return
        self.tell_changes()
        self.start_watching()
        try:
            self.evaluator.run(self.bound_model, before=self.step, max_steps=self.batches)
            if self.waiting:
                self.mask()  # a training of fewer minibatches than were asked for has to do
        finally:
            self.stop_watching()


def _trained(trainer: Any, traced_optimizer: Any, criterion: Any, training_batches: int, mode: str = "normal",
             dummy_input: Any = None) -> dict[str, Any]:  # fmt: skip
    return {"trainer": without_epoch(trainer), "optimizer": traced_optimizer, "criterion": criterion,
            "batches": training_batches, "mode": mode, "dummy_input": dummy_input, "evaluator": None}  # fmt: skip


def _evaluated(evaluator: Evaluator, training_steps: int, mode: str = "normal", dummy_input: Any = None
               ) -> dict[str, Any]:  # fmt: skip
    return {"trainer": None, "optimizer": None, "criterion": None, "batches": training_steps, "mode": mode,
            "dummy_input": example_of(evaluator, dummy_input), "evaluator": evaluator}  # fmt: skip


def _trained_ranks(trainer: Any, traced_optimizer: Any, criterion: Any, training_batches: int, activation: str = "relu",
                   mode: str = "normal", dummy_input: Any = None) -> dict[str, Any]:  # fmt: skip
    own = _trained(trainer, traced_optimizer, criterion, training_batches, mode, dummy_input)
    return {**own, "activation": activation}


def _evaluated_ranks(evaluator: Evaluator, training_steps: int, activation: str = "relu", mode: str = "normal",
                     dummy_input: Any = None) -> dict[str, Any]:  # fmt: skip
    return {**_evaluated(evaluator, training_steps, mode, dummy_input), "activation": activation}


class TaylorFOWeightPruner(StatisticsPruner, pruning.TaylorFOWeightFilterPruner):
    """Removes the filters that the loss would miss least, to first order in their weights.

    Args:
        model: what to prune.
        config_list: entries in the words of NNI or torchpare.
        args, named: ``(evaluator, training_steps, mode="normal", dummy_input=None)``, or ``(trainer, traced_optimizer,
            criterion, training_batches, mode="normal", dummy_input=None)``.
    """

    def __init__(self, model: nn.Module, config_list: Any, *args: Any, **named: Any) -> None:
        form = _evaluated if evaluator_form(args, named) else _trained
        given = called_with("TaylorFOWeightPruner", form, args, with_traced(named))
        super().__init__(
            model, config_list, given["optimizer"], given["trainer"], given["criterion"], given["batches"],
            dummy_input=given["dummy_input"], mode=given["mode"],
        )  # fmt: skip
        self.evaluator = given["evaluator"]


class _Ranks(StatisticsPruner):
    """Of the pruners that rank by activations, how they are called."""

    def __init__(self, model: nn.Module, config_list: Any, *args: Any, **named: Any) -> None:
        form = _evaluated_ranks if evaluator_form(args, named) else _trained_ranks
        given = called_with(type(self).__name__, form, args, with_traced(named))
        super().__init__(
            model, config_list, given["optimizer"], given["trainer"], given["criterion"], given["activation"],  # type: ignore[arg-type] - the next class in line has it
            given["batches"], dummy_input=given["dummy_input"], mode=given["mode"],
        )  # fmt: skip
        self.evaluator = given["evaluator"]


class ActivationAPoZRankPruner(_Ranks, pruning.ActivationAPoZRankFilterPruner):
    """Removes the filters whose activations are zero most often.

    Args:
        model: what to prune.
        config_list: entries in the words of NNI or torchpare.
        args, named: ``(evaluator, training_steps, activation="relu", mode="normal", dummy_input=None)``, or ``(trainer,
            traced_optimizer, criterion, training_batches, activation="relu", mode="normal", dummy_input=None)``.
    """


class ActivationMeanRankPruner(_Ranks, pruning.ActivationMeanRankFilterPruner):
    """Removes the filters whose mean activation is smallest; the arguments are those of `ActivationAPoZRankPruner`."""
