"""The pruners of NNI 2.5 to 2.10 that go in rounds: prune, fine-tune, evaluate, and remember the best."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchpare import pruning
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.forms import called_with, evaluator_form, without_epoch
from torchpare.compat.nni.v2_pruning import V2Pruner
from torchpare.compat.nni.views import entry_of, full_masks
from torchpare.errors import ConfigError
from torchpare.pruning.training import training_of
from torchpare.speedup import ModelSpeedup

__all__ = ["AGPPruner", "LinearPruner", "LotteryTicketPruner", "RoundsPruner", "score_of"]

_STATISTICS = ("trainer", "traced_optimizer", "optimizer", "criterion", "training_batches", "training_steps",
               "training_epochs", "evaluator", "scale")  # fmt: skip
_SHARED = ("mode", "balance_gran", "dummy_input")


class RoundsPruner(V2Pruner):
    """What pruners that go in rounds have in common."""

    finetuner: Callable[[nn.Module], Any] | None = None
    speedup = False
    _best: tuple[int, nn.Module, Any, float | None, list[dict[str, Any]]] | None = None

    def take_rounds(self, given: Mapping[str, Any]) -> None:
        """Remember who fine-tunes and evaluates between rounds."""
        self.evaluator, self.finetuner, self.speedup = given["evaluator"], given["finetuner"], given["speedup"]
        if given["log_dir"] != "." or given["keep_intermediate_result"]:
            tell("rounds_log")
        if self.speedup:
            if self.dummy_input is None:
                raise ConfigError(f"{type(self).__name__}: speedup=True makes the model small, which needs dummy_input")
            tell("rounds_speedup")

    def finish_round(self, at: int) -> None:
        """Fine-tune and evaluate after the mask of a round, and remember the best."""
        if isinstance(self.evaluator, Evaluator):
            self.evaluator.run(self.bound_model)
        elif self.finetuner is not None:
            self.finetuner(self.bound_model)
        if at == 0:
            return  # nothing was pruned yet
        score = score_of(self.evaluator, self.bound_model)
        if self._best is None or score is None or self._best[3] is None or score > self._best[3]:
            model = self.bound_model if score is None else copy.deepcopy(self.bound_model)
            self._best = (at, model, full_masks(self.bound_model), score, self._asked())

    def get_best_result(self) -> tuple[int, nn.Module, Any, float | None, list[dict[str, Any]]] | None:
        """``(round, model, masks, score, config_list)`` of the best round; of the last, where nobody evaluates."""
        return self._best

    def shrink(self) -> None:
        """Make the model small where that was asked for; and the best one, where an evaluator kept a copy of it."""
        if self.speedup:
            masks = self.get_masks()
            ModelSpeedup(self.bound_model, self.dummy_input).speedup_model()
            self._unwrapped = masks  # for `export_model`, which writes them beside the small model's weights
            if self._best is not None and self._best[1] is not self.bound_model:
                ModelSpeedup(self._best[1], self.dummy_input).speedup_model()

    def _asked(self) -> list[dict[str, Any]]:
        now = self.sparsities()
        entries = [{**entry_of(target), "op_names": [name]} for name, target in self.targets.items()]
        return [{**entry, "sparsity": now[entry["op_names"][0]]} for entry in entries]


class _Gradual(RoundsPruner, pruning.GradualPruner):
    """Prunes more from round to round; the arguments are those of `AGPPruner`."""

    def __init__(self, model: nn.Module, config_list: Any, *args: Any, **named: Any) -> None:
        name = type(self).__name__
        given = called_with(name, _by_evaluator if evaluator_form(args, named) else _by_finetuner, args, named)
        parameters = _checked(name, given["pruning_params"])
        inner = parameters.get("evaluator")
        optimizer = inner.optimizer if isinstance(inner, Evaluator) else parameters.get("traced_optimizer")
        super().__init__(
            model, config_list, optimizer, num_iterations=given["total_iteration"] + 1,
            pruning_algorithm=given["pruning_algorithm"],
            dummy_input=_first(given["dummy_input"], parameters.get("dummy_input")), **_allocation(parameters),
        )  # fmt: skip
        self.parameters = parameters
        self.take_rounds(given)

    def begin(self) -> None:
        """Prune and fine-tune by turns; then make the model small, if asked for."""
        self.tell_changes()
        self.look_again()
        try:
            for at in range(1, self.num_iterations):
                self.now_epoch = at
                self._show_data()
                self._mask_if_due()
                self.finish_round(at)
        finally:
            self.look_no_more()
        self.shrink()

    def _show_data(self) -> None:
        """Let criteria that look at data see some, and scales become sparse."""
        inner, trainer = self.parameters.get("evaluator"), self.parameters.get("trainer")
        if isinstance(self.ranking, pruning.SlimPruner):
            self._train_scales(self.ranking, inner, trainer)
            return
        steps = self.parameters.get("training_steps", self.parameters.get("training_batches"))
        if isinstance(inner, Evaluator):
            inner.run(self.bound_model, before=None if inner.optimizer else self.step, max_steps=steps)
        elif trainer is not None:
            without_epoch(trainer)(
                self.bound_model, optimizer=self.optimizer, criterion=self.parameters.get("criterion"), epoch=0
            )

    def _train_scales(self, slim: pruning.SlimPruner, inner: Any, trainer: Any) -> None:
        slim.scale = self.parameters.get("scale", slim.scale)
        slim.epochs = self.parameters.get("training_epochs", 1)
        if isinstance(inner, Evaluator):
            inner.run(self.bound_model, before=slim.sparsify, max_epochs=slim.epochs)
            return
        criterion = self.parameters.get("criterion")
        slim.training = training_of(type(self).__name__, without_epoch(trainer), self.optimizer, criterion)
        slim.train_scales()


class LinearPruner(_Gradual, pruning.LinearPruner):
    """As much in every round; the arguments are those of `AGPPruner`."""


class AGPPruner(_Gradual, pruning.AGPPruner):
    """Fast at first, while there is much to spare, and slow at the end.

    Args:
        model: what to prune.
        config_list: entries in the words of NNI or torchpare.
        args, named: ``(pruning_algorithm, total_iteration, log_dir=".", keep_intermediate_result=False, finetuner=None,
            speedup=False, dummy_input=None, evaluator=None, pruning_params={})``, or, with an evaluator of 2.9,
            ``(pruning_algorithm, total_iteration, log_dir=".", keep_intermediate_result=False, evaluator=None,
            speedup=False, pruning_params={})``.
    """


class LotteryTicketPruner(RoundsPruner, pruning.LotteryTicketPruner):
    """Prunes in rounds, each of which begins where the first one began.

    Args:
        model: what to prune.
        config_list: entries in the words of NNI or torchpare.
        args, named: as `AGPPruner`'s, and before or behind ``pruning_params`` ``reset_weight=True``.
    """

    def __init__(self, model: nn.Module, config_list: Any, *args: Any, **named: Any) -> None:
        reset = named.pop("reset_weight", True)
        name = "LotteryTicketPruner"
        last = 6 if evaluator_form(args, named) else 8  # where pruning_params stand
        for at in (last, last + 1):
            if len(args) > at and isinstance(args[at], bool):
                reset, args = args[at], (*args[:at], *args[at + 1 :])
                break
        given = called_with(name, _by_evaluator if evaluator_form(args, named) else _by_finetuner, args, named)
        rounds = given["total_iteration"]
        entries: Any = [
            {**entry, "prune_iterations": rounds} if isinstance(entry, Mapping) and not entry.get("exclude") else entry
            for entry in config_list
        ]
        parameters = _checked(name, given["pruning_params"])
        super().__init__(
            model, entries, reset_weights=reset, pruning_algorithm=given["pruning_algorithm"],
            dummy_input=_first(given["dummy_input"], parameters.get("dummy_input")), **_allocation(parameters),
        )  # fmt: skip
        self.take_rounds(given)

    def compress(self) -> Any:
        """Go through all rounds, and return ``(model, masks)`` of the last."""
        already = self._compressed
        result = super().compress()
        if already:
            return result
        for at in self.get_prune_iterations():
            self.prune_iteration_start()
            self.finish_round(at)
        self.look_no_more()
        self.shrink()
        return self.bound_model, self.found_masks()


def score_of(evaluator: Any, model: nn.Module) -> float | None:
    """What an evaluator of any version says of a model; None where there is none."""
    if isinstance(evaluator, Evaluator):
        return evaluator.score(model) if getattr(evaluator, "evaluating_func", True) is not None else None
    return None if evaluator is None else float(evaluator(model))


def _by_finetuner(pruning_algorithm: str, total_iteration: int, log_dir: str = ".",  # noqa: PLR0913 - NNI's
                  keep_intermediate_result: bool = False, finetuner: Any = None, speedup: bool = False,
                  dummy_input: Any = None, evaluator: Any = None, pruning_params: Mapping[str, Any] | None = None, *,
                  speed_up: bool = False) -> dict[str, Any]:  # fmt: skip
    return {"pruning_algorithm": pruning_algorithm, "total_iteration": total_iteration, "log_dir": log_dir,
            "keep_intermediate_result": keep_intermediate_result, "finetuner": finetuner,
            "speedup": speedup or speed_up, "dummy_input": dummy_input, "evaluator": evaluator,
            "pruning_params": dict(pruning_params or {})}  # fmt: skip


def _by_evaluator(pruning_algorithm: str, total_iteration: int, log_dir: str = ".",
                  keep_intermediate_result: bool = False, evaluator: Any = None, speedup: bool = False,
                  pruning_params: Mapping[str, Any] | None = None) -> dict[str, Any]:  # fmt: skip
    dummy_input = evaluator.dummy_input if isinstance(evaluator, Evaluator) else None
    return _by_finetuner(pruning_algorithm, total_iteration, log_dir, keep_intermediate_result, None, speedup,
                         dummy_input, evaluator, pruning_params)  # fmt: skip


def _checked(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What is said to the pruner of each round, by our words.

    Raises:
        ConfigError: it is no such thing.
    """
    for key in parameters:
        if key not in (*_STATISTICS, *_SHARED):
            raise ConfigError(f"{name}: pruning_params[{key!r}]: there is no such thing; there are "
                              f"{', '.join((*_STATISTICS, *_SHARED))}")  # fmt: skip
    given = dict(parameters)
    given.setdefault("traced_optimizer", given.pop("optimizer", None))
    return given


def _allocation(parameters: Mapping[str, Any]) -> Any:
    """How layers share what goes."""
    return {key: parameters[key] for key in ("mode", "balance_gran") if key in parameters}


def _first(*given: Any) -> Any:
    return next((one for one in given if one is not None), None)
