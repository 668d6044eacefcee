"""Blocks that a shrink took out, in the record of it: always counted in the model as its class builds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["EMPTY", "STRUCTURE", "with_dropped"]

STRUCTURE = "torchpare_structure"
"""The plain attribute in which a shrunk model carries its record."""

EMPTY: dict[str, Any] = {"version": 1, "attributes": {}, "added_parameters": [], "kept": {}}
"""A record of nothing."""


def with_dropped(record: Mapping[str, Any] | None, dropped: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """A record, with further blocks dropped.

    Dropping comes first when a model is loaded, so everything else in the record goes by the names that modules have
    without the dropped blocks.

    Args:
        record: what was done before, or None.
        dropped: by path of a stack, the blocks that go now, counted in the model as it is now.
    """
    old = dict(EMPTY if record is None else record)
    merged = {path: list(indices) for path, indices in old.get("dropped", {}).items()}
    rename: dict[str, dict[int, int]] = {}
    for path, indices in dropped.items():
        before = set(merged.get(path, ()))
        length = max((*indices, *before), default=0) + len(before) + 1
        left = [at for at in range(length + len(indices)) if at not in before]
        merged[path] = sorted(before | {left[at] for at in indices})
        gone = sorted(indices)
        rename[path] = {at: at - sum(other < at for other in gone) for at in range(1000) if at not in gone}
    return {
        **old,
        "attributes": _renamed(old["attributes"], rename),
        "kept": _renamed(old["kept"], rename),
        "added_parameters": list(_renamed(dict.fromkeys(old["added_parameters"]), rename)),
        "adopted": list(_renamed(dict.fromkeys(old.get("adopted", ())), rename)),
        "dropped": merged,
    }


def _renamed(items: Mapping[str, Any], rename: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """Names behind a dropped block move up; names inside one are gone."""
    result = {}
    for name, value in items.items():
        new: str | None = name
        for path, places in rename.items():
            prefix = f"{path}." if path else ""
            head, _, rest = name.removeprefix(prefix).partition(".")
            if name.startswith(prefix) and head.isdigit():
                place = places.get(int(head))
                new = None if place is None else f"{prefix}{place}{'.' if rest else ''}{rest}"
        if new is not None:
            result[new] = value
    return result
