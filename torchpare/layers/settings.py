"""Where a module keeps its numbers, when not in attributes of its own: settings objects, dicts, rows, its class.

All of these are read alike, as *members* by name: ``config.heads``, ``stages[0]["width"]`` and a field of a named tuple
are the paths ``config.heads``, ``stages.0.width`` and ``shape.heads``.
"""

from __future__ import annotations

import copy
import enum
import functools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["attributes_of", "fields_of", "is_settings", "members", "with_members"]

_SCALARS = frozenset({bool, int, float, str, type(None)})
_PLAIN = _SCALARS | {tuple, list, dict, set, OrderedDict}
_OF_TORCH = frozenset(vars(nn.Module()))
_OURS = "torchpare_"
"""How the notes of this library on a model begin."""
_MOST = 1000
"""Members of what is still looked into: a vocabulary is no settings."""


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """What a module's code finds under ``self``: values of its own, and plain ones of its classes, but torch's not."""
    found: dict[str, Any] = {}
    for base in reversed(type(module).__mro__):
        if not f"{base.__module__}.".startswith(("torch.", "builtins.")):
            found.update(vars(base))
        elif found:
            found = {name: value for name, value in found.items() if name not in vars(base)}
    found = {name: value for name, value in found.items() if type(value) in _PLAIN or members(value)}
    found.update(vars(module))
    return {name: value for name, value in found.items() if name not in _OF_TORCH and not name.startswith(_OURS)}


def fields_of(value: Any) -> dict[str, Any]:
    """What an object holds under names: in its dict, and in the slots of its classes."""
    slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for own in slots for name in ((own,) if isinstance(own, str) else own)]
    held = {name: getattr(value, name) for name in names if not name.startswith("__") and hasattr(value, name)}
    return {**held, **getattr(value, "__dict__", {})}


def is_settings(value: Any) -> bool:
    """Whether an attribute of a module is an object of plain settings, such as a ``config``."""
    kind = type(value)
    if kind in _PLAIN:  # most attributes are
        return False
    if isinstance(value, (nn.Module, Tensor, type, enum.Enum)) or callable(value) or not (own := fields_of(value)):
        return False
    if kind.__name__.endswith(("Config", "Args", "Namespace")) or hasattr(kind, "__dataclass_fields__"):
        return True
    return kind.__module__ != "builtins" and all(map(_is_plain, own.values()))


def _is_plain(value: Any, around: tuple[int, ...] = ()) -> bool:
    if id(value) in around or not isinstance(value, (list, tuple, dict)):
        return id(value) in around or type(value) in _SCALARS
    items = value.values() if isinstance(value, dict) else value
    return all(_is_plain(item, (*around, id(value))) for item in items)


def members(value: Any) -> dict[str, Any]:
    """What a value holds under names: entries of a dict, fields, items by position; nothing, for what is no holder."""
    kind = type(value)
    if kind in _SCALARS or (kind in _PLAIN and len(value) > _MOST):
        return {}
    if kind in (dict, OrderedDict):
        named = {str(key): item for key, item in value.items() if type(key) in (str, int) and "." not in str(key)}
        return named if len(named) == len(value) else {}
    if kind in (list, tuple, torch.Size):
        return {str(position): item for position, item in enumerate(value)}
    if isinstance(value, functools.partial):
        return {**{str(position): item for position, item in enumerate(value.args)}, **value.keywords}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return dict(zip(kind._fields, value, strict=True))  # type: ignore[attr-defined]
    return fields_of(value) if is_settings(value) else {}


def with_members(value: Any, changes: Mapping[str, Any], *, in_place: bool = False) -> Any:
    """A copy of a holder with other members; ``in_place`` changes it itself, where its kind can be changed."""
    if isinstance(value, tuple):
        items = [changes.get(name, item) for name, item in members(value).items()]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, functools.partial):
        args = [changes.get(str(position), item) for position, item in enumerate(value.args)]
        return functools.partial(value.func, *args, **{k: changes.get(k, item) for k, item in value.keywords.items()})
    twin = value if in_place else copy.copy(value)
    if isinstance(twin, list):
        for name, item in changes.items():
            twin[int(name)] = item
    elif isinstance(twin, dict):
        twin.update({key: changes[str(key)] for key in twin if str(key) in changes})
    else:
        own = getattr(twin, "__dict__", {})
        own.update({name: item for name, item in changes.items() if name in own})  # a frozen or read-only one too
        for name in changes.keys() - own.keys():
            object.__setattr__(twin, name, changes[name])  # a slot
    return twin
