"""A user's function with arguments of which the model may be one: candidates take its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

__all__ = ["WithModel"]


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
