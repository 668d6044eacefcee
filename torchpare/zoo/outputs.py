"""The tensors in what a model returns, whatever it returns them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.graph.capture import call_arguments

__all__ = ["float_tensors", "run", "tensors"]


def run(model: nn.Module, inputs: Any) -> Any:
    """What the model returns for `inputs`, with the same random numbers every time."""
    args, kwargs = call_arguments(inputs)
    torch.manual_seed(0)
    return model(*args, **kwargs)


def tensors(output: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in `output`, with the path to it: through mappings, sequences and dataclasses."""
    yield from _tensors(output, "output")


def float_tensors(output: Any) -> list[Tensor]:
    """Those that can be trained on: real and complex floating point."""
    return [tensor for _, tensor in tensors(output) if tensor.is_floating_point() or tensor.is_complex()]


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{path}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{path}[{index}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name), f"{path}.{field.name}")
