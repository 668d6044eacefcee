"""From words to things: ``package.module:callable`` to what it names or makes, ``2x3x224x224:float32`` to a tensor."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.errors import ConfigError, TorchpareError
from torchpare.recipe.code import is_own_file
from torchpare.recipe.settings import Call

__all__ = ["build_model", "called", "class_of", "found", "importing_from", "in_words", "is_shape", "read_inputs"]

_SHAPE = re.compile(r"^(?:\w+=)?\d+(?:x\d+)*(?::\w+)?$")


def build_model(call: str | Call) -> nn.Module:
    """The model that ``package.module:callable`` names or makes; modules are also looked for in the working directory.

    Raises:
        ConfigError: there is no such module or callable, it fails, or what it makes is no model.
    """
    call = call if isinstance(call, Call) else _call(call, "a model", "torchvision.models:resnet18")
    made = found(call.callable)
    if not isinstance(made, nn.Module):
        made = called(call, what="a model")
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{call.callable}() gives a {type(made).__name__}, not a torch.nn.Module")
    return made.eval()


def found(path: str) -> Any:
    """What ``package.module:name`` names; modules are also looked for in the working directory.

    Raises:
        ConfigError: there is no such module or name, or the module fails while it is imported.
    """
    if "" not in sys.path:
        sys.path.append("")
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's, and may raise anything
        raise ConfigError(f"{path!r} cannot be found: {in_words(error)}") from error
    value: Any = module
    try:
        for part in name.split("."):
            value = getattr(value, part)
    except AttributeError as error:
        where = getattr(module, "__file__", None) or "built in"
        raise ConfigError(f"{path!r} cannot be found: {error} ({where})") from error
    return value


def in_words(error: BaseException) -> str:
    """What an error says, with its kind and the line of the user's code that raised it, where it is not one of ours."""
    if isinstance(error, TorchpareError):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own_file(frame.filename)]
    where = f" ({frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def called(call: Call, *first: Any, what: str) -> Any:
    """What a callable gives.

    Args:
        call: the callable and its arguments.
        first: what it is called with before these.
        what: that it should give, for errors.

    Raises:
        ConfigError: there is no such callable, or it fails.
    """
    function = found(call.callable)
    if not callable(function):
        raise ConfigError(f"{call.callable} is a {type(function).__name__}, which cannot be called to give {what}")
    try:
        return function(*first, *call.args, **call.kwargs)
    except Exception as error:
        hint = "" if call.args or call.kwargs or first else "; name a callable without arguments"
        raise ConfigError(f"{call.callable}() failed: {in_words(error)}{hint}") from error


def class_of(name: str, room: Any, base: type, what: str) -> Any:
    """A class by its name in one of our rooms, or as ``package.module:Class``.

    Args:
        name: of the class.
        room: the module that has those that need no path.
        base: what the class must be a subclass of.
        what: it is, for errors.

    Raises:
        ConfigError: there is none of this name; names the nearest.
    """
    if ":" in name:
        cls = found(name)
    else:
        known = [each for each in getattr(room, "__all__", dir(room)) if isinstance(getattr(room, each), type)
                 and issubclass(getattr(room, each), base)]  # fmt: skip
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{room.__name__} has no {what} {name!r}; {hint} One of your own is named as "
                              "package.module:Class")  # fmt: skip
        cls = getattr(room, name)
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise ConfigError(f"{name} is no {what}: it is not a subclass of {base.__module__}.{base.__name__}")
    return cls


@contextmanager
def importing_from(folder: Path | None) -> Iterator[None]:
    """Modules are first looked for in a folder, meanwhile; those of other folders that have their names step aside."""
    if folder is None:
        yield
        return
    folder = folder.resolve()
    aside = {name: sys.modules.pop(name) for name in _namesakes(folder)}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        sys.modules.update(aside)


def _namesakes(folder: Path) -> list[str]:
    """The user's own modules that were imported from elsewhere, and would be found in a folder under their names."""
    here = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    own = {name: Path(file) for name, file in files.items()
           if name.partition(".")[0] in here and file is not None and is_own_file(file)}  # fmt: skip
    return [name for name, file in own.items() if not file.resolve().is_relative_to(folder)]


def is_shape(word: str) -> bool:
    """Whether a word is a shape such as ``2x16:int64``, and not the name of a callable."""
    return _SHAPE.match(word) is not None


def read_inputs(words: Sequence[str]) -> Any:
    """Example inputs: ``2x3x224x224`` positional, ``name=2x16:int64`` by keyword; integers are zeros, floats random.

    Raises:
        ConfigError: a word is not understood, or positional and keyword inputs are mixed.
    """
    positional: list[Tensor] = []
    named: dict[str, Tensor] = {}
    for word in words:
        name, equals, shape = word.rpartition("=")
        if equals:
            named[name] = _tensor(shape, word)
        else:
            positional.append(_tensor(shape, word))
    if positional and named:
        raise ConfigError("inputs are either all positional (2x3x224x224) or all by keyword (name=2x16:int64)")
    if not positional and not named:
        raise ConfigError("give the shape of an example input, the batch included: --input 1x3x224x224")
    return named or (positional[0] if len(positional) == 1 else tuple(positional))


def _call(path: str, what: str, example: str) -> Call:
    module, colon, name = path.partition(":")
    if not colon or not module or not name:
        raise ConfigError(f"{path!r} does not name {what}; say package.module:callable, as in {example}")
    return Call(callable=path)


def _tensor(word: str, whole: str) -> Tensor:
    shape, _, kind = word.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    sizes = shape.split("x")
    if not isinstance(dtype, torch.dtype) or not all(size.isdigit() and int(size) > 0 for size in sizes):
        raise ConfigError(f"--input {whole!r} is not understood; say 2x3x224x224, or 2x16:int64, or name=2x16:int64")
    numbers = [int(size) for size in sizes]
    if not dtype.is_floating_point:
        return torch.zeros(numbers, dtype=dtype)
    return torch.randn(numbers, generator=torch.Generator().manual_seed(0)).to(dtype)
