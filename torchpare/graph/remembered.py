"""Functions that remember their answers, asked anew while a model is recorded.

A function under `functools.lru_cache` takes a size for the plain integer that it equals: it hands out what it worked
out for another layer, or for an earlier model, and with that the origin of those sizes. Libraries that parse patterns
of axes (einops) remember every answer; models remember their tables. While sizes know where they come from, each such
call is worked out afresh, and nothing that was recorded stays behind in anybody's memory.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from torchpare.graph.sizes import Size

__all__ = ["asked_anew"]

_Remembering: type = functools._lru_cache_wrapper  # noqa: SLF001 - the class has no public name


@contextmanager
def asked_anew(model: nn.Module) -> Iterator[None]:
    """While this lasts, functions and methods under ``lru_cache`` do not remember what was asked with a `Size`.

    Args:
        model: its classes are searched for such methods; functions are found in all modules that are imported.
    """
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for home in _homes(model):
            found = [(name, value) for name, value in vars(home).items() if type(value) is _Remembering]
            for name, value in found:
                replaced.append((home, name, value))
                setattr(home, name, _forgetful(value))
        yield
    finally:
        for home, name, value in replaced:
            setattr(home, name, value)


def _homes(model: nn.Module) -> Iterator[Any]:
    """Where such functions live: imported modules and the classes of a model.

    Not torch, which gets plain numbers, nor the recorder itself, nor the standard library, which works out no sizes.
    """
    for name, module in list(sys.modules.items()):
        own = f"{name}.".startswith(("torch.", "torchpare.graph.")) or name.partition(".")[0] in sys.stdlib_module_names
        if isinstance(module, ModuleType) and not own:
            yield module
    for kind in dict.fromkeys(base for module in model.modules() for base in type(module).__mro__):
        if not f"{kind.__module__}.".startswith(("torch.", "builtins.")):
            yield kind


def _forgetful(function: Any) -> Callable[..., Any]:
    """The function that remembers, except where it is given a `Size`."""

    @functools.wraps(function)
    def ask(*args: Any, **kwargs: Any) -> Any:
        sized = any(isinstance(leaf, Size) for leaf in pytree.tree_leaves((args, kwargs)))
        return (function.__wrapped__ if sized else function)(*args, **kwargs)

    for name in ("cache_clear", "cache_info", "cache_parameters"):
        setattr(ask, name, getattr(function, name))
    return ask
