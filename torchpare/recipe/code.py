"""Names for what code does and for what data holds, by which a run knows what changed since it was interrupted.

A function is known by its code, its defaults, and all of the user's own that it uses: other functions, classes, and
constants. What is installed counts by its name alone.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import torchpare

__all__ = ["is_own_file", "of_data", "of_model_code", "of_use"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), PurePath, torch.dtype, torch.device)
_STDLIB = Path(sysconfig.get_paths()["stdlib"])
_OURS = Path(torchpare.__file__).parent
_OF_EVERY_CLASS = ("__dict__", "__doc__", "__firstlineno__", "__module__", "__static_attributes__", "__weakref__")


def of_use(thing: Any) -> str:
    """A name for what a function or a class does: equal until it, or something of the user's that it uses, changes.

    What may change while a program runs does not count: attributes of objects that are not frozen, and lists and dicts
    among globals that are not written in capitals.
    """
    walk = _Walk()
    walk.take(thing)
    return walk.name()


def of_model_code(model: nn.Module) -> str:
    """A name for what the user's own classes of a model compute."""
    walk = _Walk()
    for cls in dict.fromkeys(type(module) for module in model.modules()):
        walk.take(cls)
    return walk.name()


def of_data(batches: Any) -> str:
    """A name for batches that were given as objects: values where they lie in memory, otherwise kinds and sizes.

    Nothing is drawn from a loader, which could be slow, or differ each time.
    """
    walk = _Walk()
    walk.data(batches)
    return walk.name()


class _Walk:
    """Goes over all that a thing uses, each once."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.seen: dict[int, Any] = {}  # kept alive, so that no other thing gets its place in memory

    def name(self) -> str:
        return self.hash.hexdigest()

    def word(self, *words: object) -> None:
        self.hash.update(repr(words).encode())

    def take(self, thing: Any, *, constant: bool = False) -> None:
        """Take in a thing; lists and dicts only if they are constants."""
        if isinstance(thing, _PLAIN):
            self.word(thing)
        elif isinstance(thing, Tensor | np.ndarray):
            self._values(thing)
        elif isinstance(thing, tuple):
            for each in thing:
                self.take(each, constant=constant)
        elif isinstance(thing, frozenset):
            self.word(sorted(map(repr, thing)))
        elif isinstance(thing, list | Mapping):
            if constant:
                self.data(thing)
        elif id(thing) not in self.seen:
            self.seen[id(thing)] = thing
            self._code_of(thing)

    def data(self, data: Any) -> None:
        """Take in what data holds."""
        if isinstance(data, Mapping):
            for key, value in data.items():
                self.word(key)
                self.data(value)
        elif isinstance(data, list | tuple):
            self.word(len(data))
            for each in data:
                self.data(each)
        elif isinstance(data, DataLoader):
            self.word(data.batch_size, data.drop_last, type(data.sampler).__name__, type(data.batch_sampler).__name__)
            self.take(data.collate_fn)
            self.data(data.dataset)
        elif isinstance(data, TensorDataset):
            self.data(data.tensors)
        elif isinstance(data, Subset):
            self.data(list(data.indices))
            self.data(data.dataset)
        else:
            self.take(data)
            for _, value in sorted(getattr(data, "__dict__", {}).items()):
                if isinstance(value, Tensor | np.ndarray):
                    self._values(value)
            if isinstance(data, Dataset | Iterable) and not isinstance(data, str | bytes | Tensor):
                self.word(_length(data))

    def _values(self, value: Tensor | np.ndarray) -> None:
        tensor = value if isinstance(value, Tensor) else None
        self.word(str(value.dtype), tuple(value.shape))
        if tensor is not None and tensor.layout is torch.strided and not tensor.is_quantized:
            tensor = tensor.detach().cpu().contiguous().reshape(-1)
            self.hash.update(tensor.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.hash.update(value.tobytes())

    def _code_of(self, thing: Any) -> None:
        if isinstance(thing, functools.partial):
            for each in (thing.func, thing.args, *sorted(thing.keywords.items())):
                self.take(each, constant=True)
        elif isinstance(thing, types.MethodType):
            self.take(thing.__func__)
            self.take(thing.__self__)
        elif isinstance(thing, staticmethod | classmethod):
            self.take(thing.__func__)
        elif isinstance(thing, property):
            self.take((thing.fget, thing.fset))
        elif isinstance(thing, type):
            self._class(thing)
        elif callable(thing) and isinstance(inspect.unwrap(thing), types.FunctionType):
            self._function(inspect.unwrap(thing))
        else:
            self.word(getattr(thing, "__qualname__", ""))
            self.take(type(thing))
            if getattr(inspect.getattr_static(type(thing), "__dataclass_params__", None), "frozen", False):
                self.take(tuple(sorted(vars(thing).items())), constant=True)

    def _class(self, cls: type) -> None:
        self.word(cls.__module__, cls.__qualname__)
        for each in cls.__mro__ if _is_own(cls.__module__) else ():
            if _is_own(each.__module__):
                for name, value in sorted(vars(each).items()):
                    if name not in _OF_EVERY_CLASS:
                        self.word(name)
                        self.take(value, constant=name.isupper())

    def _function(self, function: types.FunctionType) -> None:
        self.word(function.__qualname__)
        if not _is_own(function.__module__):
            return
        self._code(function.__code__)
        self.take((function.__defaults__, function.__kwdefaults__), constant=True)
        for cell in function.__closure__ or ():
            try:
                self.take(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
        names = _names(function.__code__)
        for name in names:
            value = function.__globals__.get(name)
            if isinstance(value, types.ModuleType):
                for inner in names if _is_own(value.__name__) else ():
                    self.take(getattr(value, inner, None), constant=inner.isupper())
            elif name in function.__globals__:
                self.word(name)
                self.take(value, constant=name.isupper())

    def _code(self, code: types.CodeType) -> None:
        self.word(code.co_code, code.co_names)
        for value in code.co_consts:
            if isinstance(value, types.CodeType):
                self._code(value)
            else:
                self.take(value)


def _names(code: types.CodeType) -> list[str]:
    """The global names and attributes that code uses, also inside of functions in it."""
    inner = [name for value in code.co_consts if isinstance(value, types.CodeType) for name in _names(value)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def is_own_file(file: str) -> bool:
    """Whether source is the user's, and neither Python's, ours, nor installed."""
    path = Path(file)
    if file.startswith("<") or {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not (path.is_relative_to(_STDLIB) or path.is_relative_to(_OURS))


def _is_own(module: str) -> bool:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "torchpare":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or is_own_file(file)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):  # streams have no length, and some samplers say so by the second
        return None
