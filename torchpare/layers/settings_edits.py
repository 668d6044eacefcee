"""Numbers inside a model's settings (``model.config``, or a dict): changed in a copy that only this model holds.

Models share the object they were configured with: with each other, with their parts, with the variable in the user's
script. A shrink must not reach through it into another model, so the model gets a copy of its own first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from torchpare.layers.settings import settings_of

__all__ = ["Edit", "owner_and_key", "replace_settings", "settings_copies"]

Edit = int | float | list[int]


def owner_and_key(module: nn.Module, name: str) -> tuple[dict[str, Any], str] | None:
    """The namespace in which a (dotted) attribute lies, and its name there; None where there is no such place."""
    first, dot, rest = name.partition(".")
    if not dot:
        return vars(module), first
    owner = None if first.startswith("_") else settings_of(vars(module).get(first))
    return None if owner is None else (owner, rest)


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
    copies: dict[int, Any] = {}
    for (path, name), value in edits.items():
        first, _, rest = name.partition(".")
        original = vars(modules[path])[first]
        edited = settings_of(copies.setdefault(id(original), copy.copy(original)))
        assert edited is not None
        edited[rest] = value
    return replace_settings(model, copies)


def replace_settings(model: nn.Module, copies: dict[int, Any]) -> list[tuple[nn.Module, str, Any]]:
    """Where a model holds settings objects that are to be replaced: (module, attribute, new object).

    Args:
        model: only read.
        copies: the new objects, by the ``id`` of the old ones; settings that hold one of those are copied too.
    """
    if not copies:
        return []
    held = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and settings_of(value) is not None
    ]
    for _, _, value in held:  # settings that hold edited ones: a config of parts
        for inner, part in (settings_of(value) or {}).items():
            if id(part) in copies:
                edited = settings_of(copies.setdefault(id(value), copy.copy(value)))
                assert edited is not None
                edited[inner] = copies[id(part)]
    return [(module, name, copies[id(value)]) for module, name, value in held if id(value) in copies]
