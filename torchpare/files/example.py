"""An example input from its shape alone, for exports that are given no more than that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.errors import ExportError

__all__ = ["device_of", "example_of"]


def example_of(model: nn.Module, input_shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """Zeros of a shape, in the dtype of the model's parameters.

    Args:
        model: only read.
        input_shape: of one input, the batch included, such as ``[1, 3, 224, 224]``.
        device: the model's own if None.

    Raises:
        ExportError: it is no shape.
    """
    shape: tuple[Any, ...] = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ExportError(
            f"input_shape is {input_shape!r}; it is the shape of an input, the batch included, such as [1, 3, 224, 224]"
        )
    dtypes = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return torch.zeros(shape, dtype=next(dtypes, torch.get_default_dtype()), device=device or device_of(model))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter lies; the CPU if it has none."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
