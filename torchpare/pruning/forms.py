"""The optional arguments of a pruner's constructor, which scripts of several versions give in several orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.optim import Optimizer

from torchpare.errors import ConfigError
from torchpare.pruning.granularity import MODES

__all__ = ["Form", "form_of"]


class Form(NamedTuple):
    """What a constructor was given, told apart by type."""

    optimizer: Optimizer | None
    dependency_aware: bool
    dummy_input: Any
    mode: str
    balance_gran: tuple[int, ...]


def form_of(
    name: str,
    structured: bool,
    third: Any,
    fourth: Any,
    dummy_input: Any,
    mode: str,
    balance_gran: Sequence[int] | None,
) -> Form:
    """What stands after ``(model, config_list)``.

    Args:
        name: the pruner's, for messages.
        structured: whether filters go, or weights.
        third: an optimizer, ``dependency_aware``, or a mode.
        fourth: ``dependency_aware``; or, behind one of the other two, ``dummy_input`` or ``balance_gran``.
        dummy_input: an example input, given by name or in fifth place.
        mode: given by name.
        balance_gran: given by name.

    Raises:
        ConfigError: an argument is nothing that stands in its place, or dependency-aware pruning lacks its input.
    """
    if isinstance(third, str) and third in MODES:  # (model, config_list, mode, dummy_input)
        mode, third = third, None
        if not isinstance(fourth, bool):
            if mode in ("balanced", "balance") and not structured:  # (..., mode, balance_gran)
                balance_gran = fourth
            else:
                dummy_input = fourth
            fourth = False
    if isinstance(third, bool):  # (model, config_list, dependency_aware, dummy_input)
        if isinstance(fourth, bool):
            fourth = third or fourth
        else:
            fourth, dummy_input = third, fourth
        third = None
    if third is not None and not isinstance(third, Optimizer):
        raise ConfigError(f"{name}: the third argument is a {type(third).__name__}; it is either a torch optimizer or "
                          "dependency_aware, True or False")  # fmt: skip
    if not isinstance(fourth, bool):
        raise ConfigError(f"{name}: dependency_aware is a {type(fourth).__name__}, not True or False")
    aware = fourth or mode == "dependency_aware"
    if aware and not structured:
        raise ConfigError(f"{name} prunes single weights, which depend on no other layer: leave dependency_aware out")
    if aware and mode == "global":
        raise ConfigError(f"{name}: dependency_aware=True lets each layer lose its own share, and mode='global' one "
                          "share of all: leave one out")  # fmt: skip
    if aware and dummy_input is None:
        raise ConfigError(f"{name}: dependency_aware=True needs dummy_input, an example input of the model, to see "
                          "which layers share channels")  # fmt: skip
    return Form(third, aware, dummy_input, "balanced" if mode == "balance" else mode, tuple(balance_gran or ()))
