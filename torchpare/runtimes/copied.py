"""A copy of a model to take apart, so that the model itself stays as it is."""

from __future__ import annotations

import copy

from torch import Tensor, nn

__all__ = ["copied", "copied_in_float32"]


def copied(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode.

    What a model has worked out of its parameters and keeps (the weight of ``torch.nn.utils.weight_norm``) is copied as
    a value: torch refuses to copy how it came about.
    """
    kept = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    memo = {id(value): value.detach().clone() for value in kept if not value.is_leaf}
    return copy.deepcopy(model, memo).eval()


def copied_in_float32(model: nn.Module) -> nn.Module:
    """The same on the CPU and in float32, as programs compute."""
    return copied(model).cpu().float()
