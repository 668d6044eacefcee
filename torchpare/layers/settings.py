"""Settings objects: what a module keeps its numbers in, when not in attributes of its own."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

__all__ = ["is_settings", "settings_of"]

_PLAIN = frozenset({bool, int, float, str, type(None), tuple, list, dict, set, OrderedDict})


def is_settings(value: Any) -> bool:
    """Whether an attribute of a module is an object of plain settings, such as a ``config``."""
    kind = type(value)
    if kind in _PLAIN:  # most attributes are
        return False
    if isinstance(value, (nn.Module, Tensor, type)) or not hasattr(value, "__dict__") or callable(value):
        return False
    return kind.__name__.endswith(("Config", "Args", "Namespace")) or hasattr(kind, "__dataclass_fields__")


def settings_of(value: Any) -> dict[str, Any] | None:
    """The numbers that an attribute of a module holds by name: a settings object's, or a plain dict; None without."""
    if type(value) in (dict, OrderedDict):
        return value if value and all(type(key) is str and "." not in key for key in value) else None
    return vars(value) if is_settings(value) else None
