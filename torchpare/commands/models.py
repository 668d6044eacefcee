"""From words on a command line to a model and its inputs: ``package.module:callable`` and ``2x3x224x224:float32``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.errors import ConfigError

__all__ = ["build_model", "read_inputs"]


def build_model(path: str) -> nn.Module:
    """The model that ``package.module:callable`` names or makes; modules are also looked for in the working directory.

    Raises:
        ConfigError: there is no such module or callable, it fails, or what it makes is no model.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(
            f"{path!r} does not name a model; say package.module:callable, as in torchvision.models:resnet18"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path!r} cannot be found: {error}") from error
    if not isinstance(found, nn.Module):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(
                f"{path}() failed: {type(error).__name__}: {error}; name a callable without arguments"
            ) from error
    if not isinstance(found, nn.Module):
        raise ConfigError(f"{path}() gives a {type(found).__name__}, not a torch.nn.Module")
    return found.eval()


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
