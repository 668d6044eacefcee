"""``int()``, ``len()``, ``math`` and ``numpy.prod`` as a model's code calls them, keeping where a size came from.

Python makes a plain integer of whatever ``int(x)`` is given, and numpy of what it multiplies, so that ``int(c / 2)``,
``len(weight)`` and ``np.prod(x.shape[1:])`` would be numbers without origin. While a model is recorded, the modules of
its classes find these names in their own namespace, where they stand for the same functions with a memory.
"""

from __future__ import annotations

import builtins
import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from torchpare.graph.sizes import Power, Ratio, Size

__all__ = ["origins_kept"]

_OF_SIZES = frozenset({"floor", "ceil", "trunc", "prod", "gcd", "lcm", "__loader__"})
"""What sizes answer themselves, or makes a whole number that is a literal wherever it goes."""


@contextmanager
def origins_kept(model: nn.Module) -> Iterator[None]:
    """While this lasts, sizes stay sizes where the code of the model's classes makes whole numbers of them."""
    lent: dict[str, Any] = {"int": _Int, "len": _length, "range": _Range}
    names: list[tuple[dict[str, Any], str]] = []
    known = {id(np.sqrt): _root(np.sqrt)} | {
        id(function): _root(function) if name == "sqrt" else _noted(function)
        for name, function in vars(math).items()
        if callable(function) and name not in _OF_SIZES
    }
    replaced: list[tuple[Any, str, Any]] = []
    product = np.prod
    try:
        for home in _namespaces(model):
            for name, value in lent.items():
                if name not in home:
                    home[name] = value
                    names.append((home, name))
        for home in (vars(math), vars(np), *_namespaces(model)):
            replaced += [(home, name, value) for name, value in home.items() if id(value) in known]
        for home, name, value in replaced:
            home[name] = known[id(value)]
        np.prod = _multiplied(product)
        yield
    finally:
        np.prod = product
        for home, name, value in replaced:
            home[name] = value
        for home, name in names:
            del home[name]


def _namespaces(model: nn.Module) -> Iterator[dict[str, Any]]:
    kinds = dict.fromkeys(base for module in model.modules() for base in type(module).__mro__)
    for name in dict.fromkeys(kind.__module__ for kind in kinds):
        if name in sys.modules and not f"{name}.".startswith(("torch.", "builtins.")):
            yield vars(sys.modules[name])


class _Kind(type):
    """Of a class that stands for a built-in one wherever it is called, compared or asked what is one."""

    builtin: type
    made: Callable[..., Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.made(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.builtin)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.builtin)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.builtin

    def __hash__(cls) -> int:
        return hash(cls.builtin)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.builtin, name)


def _whole(*args: Any, **kwargs: Any) -> int:
    if len(args) == 1 and isinstance(args[0], Size):
        return args[0]
    if len(args) == 1 and isinstance(args[0], Ratio):
        return math.trunc(args[0])
    return int(*args, **kwargs)


class _Int(metaclass=_Kind):
    """``int`` to the code of a model that is being recorded."""

    builtin, made = int, staticmethod(_whole)


def _length(of: Any, /) -> int:
    """``len``, which for a tensor is the size of its first axis."""
    return of.shape[0] if isinstance(of, Tensor) and of.ndim else builtins.len(of)


def _root(function: Any) -> Any:
    @functools.wraps(function)
    def sqrt(number: Any, /, *args: Any, **kwargs: Any) -> Any:
        plain = not isinstance(number, (Size, Power)) or args or kwargs
        return function(number, *args, **kwargs) if plain else number**0.5

    return sqrt


def _noted(function: Any) -> Any:
    """A function that takes numbers as they are (``math.log``, ``range``), and does not ask them for their origin."""

    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        for number in args:
            if isinstance(number, (Size, Ratio, Power)):
                number.used_as_number()
        return function(*args, **kwargs)

    return noted


class _Range(metaclass=_Kind):
    """``range`` to the code of a model that is being recorded: how often a loop runs is a plain number."""

    builtin, made = range, staticmethod(_noted(range))


def _multiplied(product: Any) -> Any:
    @functools.wraps(product)
    def prod(numbers: Any, *args: Any, **kwargs: Any) -> Any:
        sized = isinstance(numbers, (tuple, list)) and any(isinstance(number, Size) for number in numbers)
        return math.prod(numbers) if sized and not args and not kwargs else product(numbers, *args, **kwargs)

    return prod
