"""What a batch is: inputs and a target, or keyword arguments with labels; and what its loss is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.errors import ConfigError

__all__ = [
    "Loss",
    "arguments_of",
    "begin_epoch",
    "calibration_batches",
    "default_loss",
    "first_example",
    "inputs_of",
    "on",
    "read_again",
    "taken_by",
]

Loss = Callable[[Any, Any], Tensor]
"""``loss(output, batch)``."""

_TARGETS = ("labels", "label", "target", "targets")


def inputs_of(batch: Any) -> Any:
    """What a model is called with: a tensor, a tuple of positional arguments, or a dict; without the target."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in _TARGETS}
    if isinstance(batch, tuple | list):
        inputs = tuple(batch[:-1]) if len(batch) > 1 else tuple(batch)
        return inputs[0] if len(inputs) == 1 else inputs
    return batch


def arguments_of(
    batch: Any, takes: Callable[[str], bool] = lambda _name: True
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with to learn: as `inputs_of`, but models that are called by keyword get labels too.

    Args:
        batch: inputs, and perhaps a target.
        takes: whether the model takes labels of a name; see `taken_by`.
    """
    if isinstance(batch, Mapping):
        return (), {key: value for key, value in batch.items() if key not in _TARGETS or takes(key)}
    inputs = inputs_of(batch)
    if isinstance(inputs, Mapping):  # (dict, target): what has names is given by name, as everywhere
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def taken_by(model: nn.Module) -> Callable[[str], bool]:
    """Whether a model's ``forward`` takes an argument of a name."""
    parameters = inspect.signature(model.forward).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return lambda name: anything or name in parameters


def default_loss(output: Any, batch: Any) -> Tensor:
    """The output's own ``loss``, or cross entropy between the output and the batch's target.

    Raises:
        ConfigError: there is neither.
    """
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits", next(iter(output.values()), None))
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", output[0] if isinstance(output, tuple | list) and output else None)
    target = None
    if isinstance(batch, Mapping):
        target = next((batch[key] for key in _TARGETS if key in batch), None)
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        target = batch[-1]
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        kinds = f"a batch that is a {type(batch).__name__} and an output that is a {type(output).__name__}"
        raise ConfigError(f"nothing says what the loss is of {kinds}: name a 'loss', a callable loss(output, batch)")
    if target.dim() == logits.dim() - 1 and logits.dim() > 2 and logits.shape[:-1] == target.shape:
        return F.cross_entropy(logits.flatten(0, -2), target.flatten())  # (B, T, V): a sequence's vocabulary comes last
    return F.cross_entropy(logits, target)


def read_again(batches: Any, what: str) -> Iterable[Any]:
    """Batches that can be gone through again and again.

    Raises:
        ConfigError: they cannot.
    """
    if callable(batches) and not isinstance(batches, Iterable):
        batches = batches()
    if isinstance(batches, Iterator) or not isinstance(batches, Iterable):
        kind = type(batches).__name__
        raise ConfigError(f"{what} is a {kind}, which cannot be gone through again and again: give a list of batches "
                          "or a torch.utils.data.DataLoader")  # fmt: skip
    return batches


def first_example(batches: Iterable[Any]) -> Any:
    """The inputs of the first two samples of the first batch.

    Raises:
        ConfigError: there is no batch.
    """
    for batch in batches:
        inputs = inputs_of(batch)
        size = next(
            (leaf.shape[0] for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()), 0
        )

        def cut(leaf: Any, size: int = size) -> Any:
            return leaf[:2] if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == size else leaf

        return pytree.tree_map(cut, inputs)
    raise ConfigError("the training data holds no batch to take an example input from: give example_inputs")


def calibration_batches(batches: Iterable[Any], count: int, *, with_targets: bool) -> list[Any]:
    """The inputs of so many batches.

    Raises:
        ConfigError: there are none.
    """
    found = [inputs_of(batch) if with_targets else batch for batch in islice(batches, count)]
    if not found:
        raise ConfigError("there are no batches to calibrate with")
    return found


def on(device: str, value: Any) -> Any:
    """The same on a device."""

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device)
        return {key: on(device, each) for key, each in leaf.items()} if isinstance(leaf, Mapping) else leaf

    return pytree.tree_map(moved, value)


def begin_epoch(batches: Any, number: int, seed: int) -> None:
    """Let loaders that draw by themselves draw what belongs to this epoch."""
    sampler, batch_sampler = getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)
    for holder in (batches, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
        told = getattr(holder, "set_epoch", None)
        if callable(told):
            told(number)
