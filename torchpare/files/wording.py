"""Names in messages: enough of them to help, few enough to read."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["listed"]


def listed(names: Iterable[str], at_most: int = 5) -> str:
    """The first few of `names` in alphabetical order, quoted, and how many more there are; `none` if there are none."""
    every = sorted(name for name in names if name)
    more = f" and {len(every) - at_most} more" if len(every) > at_most else ""
    return (", ".join(map(repr, every[:at_most])) or "none") + more
