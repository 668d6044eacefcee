"""Constructors that were called in several ways over the versions: which one is meant, and whether it is right."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torchpare.compat.nni.evaluators import Evaluator
from torchpare.errors import CompatError, ConfigError

__all__ = [
    "called_with",
    "check_movement",
    "epochs_of",
    "evaluator_form",
    "example_of",
    "with_traced",
    "without_epoch",
]


def evaluator_form(args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    """Whether a call gives an evaluator, as from 2.9 on."""
    return any(isinstance(given, Evaluator) for given in (*args, *named.values()))


def called_with(
    name: str, form: Callable[..., dict[str, Any]], args: tuple[Any, ...], named: Mapping[str, Any]
) -> dict[str, Any]:
    """What a form makes of a call's arguments.

    Raises:
        ConfigError: they do not fit it; the message has its arguments.
    """
    signature = inspect.signature(form)
    try:
        signature.bind(*args, **named)
    except TypeError as error:
        takes = signature.replace(return_annotation=inspect.Signature.empty)
        raise ConfigError(f"{name}: {error}; after model and config_list it takes {takes}") from None
    return form(*args, **named)


def without_epoch(trainer: Any) -> Any:
    """A trainer that takes ``epoch=`` too: functions for NNI 2.5 to 2.8 take model, optimizer and criterion."""
    if not callable(trainer):
        return trainer
    parameters = inspect.signature(trainer).parameters.values()
    if any(one.name == "epoch" or one.kind is one.VAR_KEYWORD for one in parameters):
        return trainer

    def train(model: Any, optimizer: Any, criterion: Any, epoch: int) -> Any:
        del epoch
        return trainer(model, optimizer, criterion)

    return train


def with_traced(named: Mapping[str, Any]) -> dict[str, Any]:
    """Named arguments with ``optimizer`` under its later name, ``traced_optimizer``."""
    return {"traced_optimizer" if key == "optimizer" else key: value for key, value in named.items()}


def example_of(evaluator: Evaluator, dummy_input: Any) -> Any:
    """The example input that a pruner was given, or else the evaluator's."""
    return evaluator.dummy_input if dummy_input is None else dummy_input


def epochs_of(evaluator: Evaluator) -> Any:
    """An evaluator as a trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch.

    Raises:
        CompatError: the library that trains makes the optimizer, so that a pruner cannot step in before its steps.
    """
    if evaluator.optimizer is None:
        raise CompatError(f"this pruner needs the optimizer before training begins, which {type(evaluator).__name__} "
                          "has not: give it a TorchEvaluator")  # fmt: skip

    def train(model: Any, optimizer: Any, criterion: Any, epoch: int) -> None:
        del optimizer, criterion, epoch
        evaluator.run(model, max_epochs=1)

    return train


def check_movement(regular_scale: float | None, movement_mode: str, sparse_granularity: str) -> None:
    """Refuse what movement pruning does not do here.

    Raises:
        CompatError: soft movement, or blocks of weights.
    """
    if regular_scale is not None or movement_mode != "hard":
        raise CompatError("MovementPruner: soft movement (regular_scale, movement_mode='soft') is not here; 'hard' is, "
                          "which prunes exactly the share that is asked for")  # fmt: skip
    if sparse_granularity not in ("finegrained", "fine-grained"):
        raise CompatError("MovementPruner masks single weights here: leave sparse_granularity out; "
                          "TransformerHeadPruner takes whole heads")  # fmt: skip
