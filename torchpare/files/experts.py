"""Experts that a shrink took out of mixtures, in the record of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchpare.files.dropped import with_dropped

__all__ = ["with_experts_dropped"]


def with_experts_dropped(
    record: Mapping[str, Any] | None,
    lists: Mapping[str, Sequence[int]],
    numbers: Mapping[str, Mapping[str, int]],
    rows: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """A record, with further experts dropped.

    Args:
        record: what was done before, or None.
        lists: by path of a list of experts, those that go now, counted in the model as it is now.
        numbers: by path of a module, the numbers that count experts and what they are now.
        rows: by qualified name of a tensor, the rows that stay, counted in the model as it is now.
    """
    old = with_dropped(record, lists)
    attributes = {path: dict(values) for path, values in old["attributes"].items()}
    for path, values in numbers.items():
        attributes.setdefault(path, {}).update(values)
    kept = {name: dict(axes) for name, axes in old["kept"].items()}
    for name, stayed in rows.items():
        earlier = kept.setdefault(name, {}).get("0")
        kept[name]["0"] = list(stayed) if earlier is None else [earlier[at] for at in stayed]
    return {**old, "attributes": attributes, "kept": kept}
