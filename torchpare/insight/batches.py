"""The data that a model is looked at with: batches that can be gone through more than once, as the model takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from torchpare.errors import ConfigError
from torchpare.graph.capture import call_arguments

__all__ = ["Batches"]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Batches:
    """Batches, each cut down to what the model takes.

    Args:
        example: an input of the model: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        data: batches, such as a list or a ``DataLoader``; the example alone if not given. Of a batch with more in it
            than the example has (labels, say) the first positional inputs are taken, or the keyword inputs that the
            example has.
        most: how many batches to look at; all if not given.

    Raises:
        ConfigError: the data can be gone through only once, or ``most`` is no number of batches.
    """

    def __init__(self, example: Any, data: Iterable[Any] | None = None, most: int | None = None) -> None:
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ConfigError(f"max_batches is {most!r}; it is 1 or more, or None for all")
        if data is not None and not isinstance(data, Iterable):
            raise ConfigError(f"data is a {type(data).__name__}; give batches: a list or a DataLoader")
        if isinstance(data, (Tensor, Mapping)):
            raise ConfigError(f"data is a single {type(data).__name__}; give batches: a list of such, or a DataLoader")
        if data is not None and iter(data) is data:
            raise ConfigError(
                f"data is a {type(data).__name__}, which can be gone through only once, and ranges are looked for "
                "before errors; give a list of batches or a DataLoader"
            )
        self.example = dict(example) if isinstance(example, Mapping) else example
        self.data, self.most = data, most
        self.own = data is not None

    def on(self, device: torch.device) -> Iterator[Arguments]:
        """Positional and keyword arguments of one batch after the other, on a device.

        Raises:
            ConfigError: a batch does not have what the example has, or there is none.
        """
        args, kwargs = call_arguments(self.example)
        number = -1
        for number, batch in enumerate(islice([self.example] if self.data is None else self.data, self.most)):
            yield pytree.tree_map(
                lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf,
                _like(batch, len(args), kwargs, number),
            )
        if number < 0:
            raise ConfigError("data has no batches; give some, or leave data out to look at the example alone")


def _like(batch: Any, positional: int, keywords: dict[str, Any], number: int) -> Arguments:
    """A batch as arguments, cut to as many as the example has."""
    if keywords:
        missing = set(keywords) - set(batch) if isinstance(batch, Mapping) else set(keywords)
        if missing:
            raise ConfigError(
                f"batch {number} of the data has no {', '.join(sorted(missing))}, which example_inputs has; give dicts "
                "with the same keys"
            )
        return (), {key: batch[key] for key in keywords}
    given, more = call_arguments(batch)
    if more or len(given) < positional:
        raise ConfigError(
            f"batch {number} of the data is a {type(batch).__name__} of {len(given) or len(more)}; example_inputs says "
            f"that the model takes {positional} positional inputs"
        )
    return given[:positional], {}
