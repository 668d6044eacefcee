"""Settings objects: what a module keeps its numbers in, when not in attributes of its own."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

__all__ = ["is_settings"]

_PLAIN = frozenset({bool, int, float, str, type(None), tuple, list, dict, set, OrderedDict})


def is_settings(value: Any) -> bool:
    """Whether an attribute of a module is an object of plain settings, such as a ``config``."""
    kind = type(value)
    if kind in _PLAIN:  # most attributes are
        return False
    if isinstance(value, (nn.Module, Tensor, type)) or not hasattr(value, "__dict__") or callable(value):
        return False
    return kind.__name__.endswith(("Config", "Args", "Namespace")) or hasattr(kind, "__dataclass_fields__")
