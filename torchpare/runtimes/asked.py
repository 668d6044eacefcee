"""What somebody asks of a program, looked at before anything is made: a model, batches, names, numbers of threads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchpare.errors import ConfigError, ExportError, QuantizationError

__all__ = [
    "batches_of",
    "check_model",
    "check_names",
    "check_switch",
    "file_of",
    "listed",
    "threads_of",
    "whole",
    "within",
]


def check_model(model: object, what: str = "model") -> None:
    """A model is a module whose tensors have values.

    Raises:
        ConfigError: it is none.
        ExportError: it has tensors on the meta device.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ConfigError(f"{what} is {kind}, not a torch.nn.Module")
    empty = [name for name, tensor in chain(model.named_parameters(), model.named_buffers()) if tensor.is_meta]
    if empty:
        raise ExportError(f"{what} has no values to compute with: {empty[0]!r} is on the meta device; load the weights "
                          "first")  # fmt: skip


def check_names(names: object, model: nn.Module, what: str) -> None:
    """Names are a list of those of modules.

    Raises:
        ConfigError: they are not.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigError(f"{what} is {names!r}; it is a list of names of layers, such as ['fc']")
    layers = {name for name, _ in model.named_modules(remove_duplicate=False)}
    for name in names:
        if name not in layers:
            raise ConfigError(f"{what} names {name!r}, and the model has no such layer")


def within(name: str, layers: Iterable[str]) -> bool:
    """Whether a layer is one of these, or lies inside of one; the empty name is the model's."""
    return any(path in ("", name) or name.startswith(f"{path}.") for path in layers)


def check_switch(value: object, what: str) -> None:
    """What is on or off is a bool: words such as "no" are true.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{what} is {value!r}; it is True or False")


def whole(value: object, least: int, what: str) -> int:
    """A whole number that is no less than the least.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what} is {value!r}; it is a whole number, {least} or more")
    return value


def listed(given: object, what: str, such_as: str) -> list[Any]:
    """A list that is not empty, and no word.

    Raises:
        ConfigError: it is none.
    """
    made = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []
    if not made:
        raise ConfigError(f"{what} is {given!r}; it is a list, such as {such_as}")
    return made


def threads_of(threads: int | None) -> int:
    """How many threads; torch's own number if None.

    Raises:
        ConfigError: it is no number of threads.
    """
    return torch.get_num_threads() if threads is None else whole(threads, 1, "threads")


def batches_of(calibration: Iterable[Any]) -> Iterator[Any]:
    """The batches of a calibration, of which there is one at least.

    Raises:
        ConfigError: it cannot be gone through.
        QuantizationError: there are none, or none any more.
    """
    if not isinstance(calibration, Iterable) and not hasattr(calibration, "__getitem__"):
        raise ConfigError(
            f"calibration is a {type(calibration).__name__}; it is a list of batches, or a loader of them"
        )
    batches, none = iter(calibration), True
    for batch in batches:
        none = False
        yield batch
    if none:
        if batches is calibration:
            raise QuantizationError(
                "calibration holds no batch, or was used up by who went through it before: give a list"
            )
        raise QuantizationError("calibration holds no batch: give some that are like those the model will meet")


def file_of(path: object) -> Path:
    """The path of a file that is there.

    Raises:
        ExportError: it is none.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise ExportError(f"path is {path!r}; it is the name of a file, written with export_quantized_model")
    file = Path(os.fsdecode(path))
    if not file.is_file():
        raise ExportError(f"there is no file {file}; write it with export_quantized_model")
    return file
