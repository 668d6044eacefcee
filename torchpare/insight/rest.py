"""A model looked at while it rests: it evaluates, draws and keeps nothing, and is afterwards as it was before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from torchpare.config.layers import type_name
from torchpare.errors import CaptureError
from torchpare.pruning.groups import is_incomplete

__all__ = ["at_rest", "device_of", "run_once", "stand_in"]


def stand_in(model: nn.Module) -> nn.Module:
    """The model itself, or a copy where its first pass would change it for good.

    Masks wait for a first batch to cover their groups, and lazy layers for one to know their shapes.
    """
    lazy = any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters())
    return copy.deepcopy(model) if lazy or is_incomplete(model) else model


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """While it lasts, the model is in evaluation mode and without gradients.

    Afterwards every module has its mode again, every buffer its values, and the random number generators their state:
    some models write into their buffers also as they evaluate.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, name, buffer, buffer.detach().clone())
               for module in model.modules() for name, buffer in module.named_buffers(recurse=False)]  # fmt: skip
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer  # noqa: SLF001 - the model may have put another one in its place
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def run_once(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> None:
    """Run the model.

    Args:
        model: the model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        what: these are, for the message.

    Raises:
        CaptureError: the model's own code failed.
    """
    try:
        model(*args, **kwargs)
    except Exception as error:
        raise CaptureError(
            f"{type_name(model)} does not run on {what}: {type(error).__name__}: {error}. Give what the model takes: a "
            "tensor, a tuple of positional inputs, or a dict of keyword inputs"
        ) from error


def device_of(model: nn.Module) -> torch.device:
    """Where the model lives: with its first parameter or buffer; the CPU if it has none."""
    first = next((*model.parameters(), *model.buffers()).__iter__(), None)
    return torch.device("cpu") if first is None else first.device
