"""Numbers inside a model's settings (``model.config``, a dict, rows of them): changed in copies that only it holds.

Models share the object they were configured with: with each other, with their parts, with the variable in the user's
script. A shrink must not reach through it into another model, so the model gets a copy of its own first. A number that
its class holds for all instances becomes an attribute of the instance, for the same reason.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from torchpare.layers.settings import attributes_of, members, with_members

__all__ = ["Edit", "number_at", "replace_settings", "settings_copies"]

Edit = int | float | list[int]


def number_at(module: nn.Module, name: str) -> Any:
    """What a module holds under a (dotted) name; None where there is no such place."""
    first, *rest = name.split(".")
    value = vars(module).get(first) if not rest else None
    value = attributes_of(module).get(first) if value is None else value
    for each in rest:
        value = members(value).get(each)
    return value


def settings_copies(
    model: nn.Module, edits: Mapping[tuple[str, str], Edit | tuple[int, ...]]
) -> list[tuple[nn.Module, str, Any]]:
    """What to set so that every module of a model holds the edited settings.

    Args:
        model: only read.
        edits: new values by (module path, dotted attribute).

    Returns:
        (module, attribute, new settings object) for each place where the old object is held.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    changes: dict[int, dict[str, Any]] = {}
    for (path, name), value in edits.items():
        holder, _, key = name.rpartition(".")
        changes.setdefault(id(number_at(modules[path], holder)), {})[key] = value
    return _replaced(model, changes, {})


def replace_settings(model: nn.Module, copies: dict[int, Any]) -> list[tuple[nn.Module, str, Any]]:
    """Where a model holds settings objects that are to be replaced: (module, attribute, new object).

    Args:
        model: only read.
        copies: the new objects, by the ``id`` of the old ones; settings that hold one of those are copied too.
    """
    return _replaced(model, {}, dict(copies)) if copies else []


def _replaced(
    model: nn.Module, changes: Mapping[int, Mapping[str, Any]], copies: dict[int, Any]
) -> list[tuple[nn.Module, str, Any]]:
    held = [(module, name, value) for module in model.modules() for name, value in attributes_of(module).items()]
    touched = _touched([value for _, _, value in held], {*changes, *copies})
    return [
        (module, name, _renewed(value, touched, changes, copies))
        for module, name, value in held
        if id(value) in touched
    ]


def _touched(pending: list[Any], edited: set[int]) -> set[int]:
    """The ids of all that is edited, and of all that holds it, however deep."""
    held: dict[int, dict[str, Any]] = {}
    while pending:
        value = pending.pop()
        if id(value) not in held and (inner := members(value)):
            held[id(value)] = inner
            pending.extend(inner.values())
    touched, more = set[int](), edited
    while more:
        touched |= more
        more = {
            key for key, inner in held.items() if key not in touched and not touched.isdisjoint(map(id, inner.values()))
        }
    return touched


def _renewed(value: Any, touched: set[int], changes: Mapping[int, Mapping[str, Any]], copies: dict[int, Any]) -> Any:
    """A value with what changed in it, however deep; itself, where nothing did."""
    if id(value) not in touched or id(value) in copies:
        return copies.get(id(value), value)
    rigid = isinstance(value, (tuple, partial))
    twin = value if rigid else copies.setdefault(id(value), copy.copy(value))  # first: settings may hold each other
    own = {
        name: _renewed(item, touched, changes, copies) for name, item in members(value).items() if id(item) in touched
    }
    copies[id(value)] = with_members(twin, {**own, **changes.get(id(value), {})}, in_place=not rigid)
    return copies[id(value)]
