"""How analyses lie on the page: charts of the layers that matter side by side, tables of all of them folded away."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torchpare.report import Block, ChartBlock, DetailsBlock, TableBlock

__all__ = ["IN_CHART", "charts", "finite", "folded"]

T = TypeVar("T")

IN_CHART = 24
"""So many layers are drawn; the table has them all."""

_ONE_COLUMN = 12
_SHORT = 16
"""A table of so many rows is not folded away."""


def charts(
    items: Sequence[T], draw: Callable[[Sequence[T]], str], title: str, caption: str, alt: Callable[[Sequence[T]], str]
) -> list[Block]:
    """A chart, in two columns where there are more layers than are read at a glance.

    Args:
        items: what is drawn, a line each; the first ones if there are many.
        draw: the picture of some.
        title: in bold above it.
        caption: what one sees.
        alt: the same in words.
    """
    shown = items[:IN_CHART]
    if not shown:
        return []
    half = len(shown) if len(shown) <= _ONE_COLUMN else (len(shown) + 1) // 2
    pictures = [draw(part) for part in (shown[:half], shown[half:]) if part]
    return [ChartBlock(pictures[0], caption, alt(shown), title, more=tuple(pictures[1:]))]


def folded(table: TableBlock, summary: str) -> Block:
    """The table, or a line that opens it if it is long."""
    return table if len(table.rows) <= _SHORT else DetailsBlock(summary, (table,))


def finite(value: Any) -> Any:
    """A number as JSON knows it: None where it is infinite or not a number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
