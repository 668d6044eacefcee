"""Executors by name."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torchpare.errors import ConfigError
from torchpare.search.executor import Executor, Processes, Serial
from torchpare.search.ray_executor import RayCluster

__all__ = ["Executors", "executor_of"]

Executors: TypeAlias = Executor | Literal["serial", "processes", "ray"]
"""An executor, or one by name."""

_NAMED: dict[str, type[Executor]] = {"serial": Serial, "processes": Processes, "ray": RayCluster}


def executor_of(given: Executors) -> Executor:
    """An executor from what a constructor was given.

    Raises:
        ConfigError: it is none.
        MissingExtraError: it needs a library that is not installed.
    """
    if isinstance(given, Executor):
        return given
    if isinstance(given, str) and given in _NAMED:
        return _NAMED[given]()
    raise ConfigError(f"executor is {given!r}; it is one of {', '.join(map(repr, _NAMED))}, or an Executor")
