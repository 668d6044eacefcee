"""What a search is told, checked; and functions with arguments of which the model may be one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import nn

from torchpare.errors import ConfigError

__all__ = ["WithModel", "check_arguments", "check_share", "number"]


def check_arguments(
    name: str, evaluator: Any, fine_tuner: Any, optimize_mode: str, seed: int, max_sparsity: float
) -> None:
    """See that the arguments of a search mean something.

    Raises:
        ConfigError: one does not.
    """
    if optimize_mode not in ("maximize", "minimize"):
        raise ConfigError(f"{name}: optimize_mode is {optimize_mode!r}; it is 'maximize' or 'minimize'")
    for key, function in (("evaluator", evaluator), ("fine_tuner", fine_tuner)):
        if not callable(function) and not (function is None and key == "fine_tuner"):
            raise ConfigError(f"{name}: {key} is a {type(function).__name__}; it is a function of the model")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"{name}: seed is {seed!r}; it is a whole number, 0 or more")
    check_share(name, "max_sparsity", max_sparsity)


def check_share(name: str, key: str, value: Any) -> None:
    """See that an argument is a share.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ConfigError(f"{name}: {key} is {value!r}; it lies between 0 and 1")


def number(name: str, value: Any) -> float:
    """What an evaluator returned, as a number.

    Raises:
        ConfigError: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last of tensors with more than one
        raise ConfigError(f"{name}: the evaluator returned a {type(value).__name__}; it returns one number, and "
                          "optimize_mode says whether more is better") from error  # fmt: skip


class _Model:
    """Where the model goes."""


class WithModel:
    """A function of a model, made of one that takes more; it can be sent to another process without the model.

    Args:
        function: the user's.
        own: the model that arguments may name.
        args: positional arguments; where they or ``kwargs`` say ``own``, the given model takes its place, and where
            none of them does, it comes first.
        kwargs: keyword arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        own: nn.Module,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
    ) -> None:
        self.__wrapped__ = function
        self.args = tuple(_Model() if value is own else value for value in args or ())
        self.kwargs = {key: _Model() if value is own else value for key, value in (kwargs or {}).items()}

    def __call__(self, model: nn.Module) -> Any:
        """Call the function with this model."""
        args = [model if isinstance(value, _Model) else value for value in self.args]
        kwargs = {key: model if isinstance(value, _Model) else value for key, value in self.kwargs.items()}
        named = any(isinstance(value, _Model) for value in (*self.args, *self.kwargs.values()))
        return self.__wrapped__(*args, **kwargs) if named else self.__wrapped__(model, *args, **kwargs)
