"""Blocks that a shrink took out, in the record of it: always counted in the model as its class builds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["EMPTY", "STRUCTURE", "as_built", "moved_up", "with_dropped"]

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
    before: dict[str, Sequence[int]] = old.get("dropped", {})
    merged = {path: sorted(indices) for path, indices in before.items()}
    for path, indices in dropped.items():
        built = as_built(path, before)
        gone = set(merged.get(built, ()))
        merged[built] = sorted(gone | {_nth_left(at, gone) for at in indices})
    return {
        **old,
        "attributes": _renamed(old["attributes"], dropped),
        "kept": _renamed(old["kept"], dropped),
        "added_parameters": list(_renamed(dict.fromkeys(old["added_parameters"]), dropped)),
        "adopted": list(_renamed(dict.fromkeys(old.get("adopted", ())), dropped)),
        "dropped": merged,
    }


def _nth_left(at: int, gone: Collection[int]) -> int:
    """Where the ``at``-th of what is left was before others went."""
    for other in sorted(gone):
        at += other <= at
    return at


def as_built(path: str, dropped: Mapping[str, Sequence[int]]) -> str:
    """The path that a module had before blocks were dropped; these are given by the paths of then."""
    built: list[str] = []
    for part in path.split("."):
        gone = dropped.get(".".join(built), ()) if part.isdigit() else ()
        built.append(str(_nth_left(int(part), gone)) if gone else part)
    return ".".join(built)


def _renamed(items: Mapping[str, Any], dropped: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Names after a dropped block move up, in stacks within stacks too; names inside one are gone."""
    new = {name: moved_up(name, dropped) for name in items}
    return {now: items[name] for name, now in new.items() if now is not None}


def moved_up(name: str, dropped: Mapping[str, Sequence[int]]) -> str | None:
    """The name that a module or parameter has once blocks are dropped; None for one inside a dropped block."""
    parts, moved = name.split("."), []
    for at, part in enumerate(parts):
        gone = dropped.get(".".join(parts[:at]), ()) if part.isdigit() else ()
        if gone and int(part) in gone:
            return None
        moved.append(str(int(part) - sum(other < int(part) for other in gone)) if gone else part)
    return ".".join(moved)
