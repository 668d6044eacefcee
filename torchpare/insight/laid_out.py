"""How analyses lie on the page: charts of the layers that matter side by side, tables of all of them folded away."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torchpare.report import Block, ChartBlock, DetailsBlock, RowBlock, TableBlock

__all__ = ["charts", "finite", "folded"]

T = TypeVar("T")

IN_CHART = 24
"""So many layers are drawn; the table has them all."""

_ONE_COLUMN = 12
_SHORT = 16
"""A table of so many rows is not folded away."""


def charts(
    items: Sequence[T], draw: Callable[[Sequence[T]], str], title: str, caption: str, alt: Callable[[Sequence[T]], str]
) -> list[Block]:
    """One chart, or two side by side where there are more layers than are read at a glance.

    Args:
        items: what is drawn, a line each; the first ones if there are many.
        draw: the picture of some.
        title: of the first chart.
        caption: of the first chart.
        alt: some in words.
    """
    shown = items[:IN_CHART]
    if not shown:
        return []
    half = len(shown) if len(shown) <= _ONE_COLUMN else (len(shown) + 1) // 2
    parts = [part for part in (shown[:half], shown[half:]) if part]
    said = [(title, caption), (f"{title}, continued", "\N{NO-BREAK SPACE}" if caption else "")]
    blocks = tuple(
        ChartBlock(draw(part), words, alt(part), head) for part, (head, words) in zip(parts, said, strict=False)
    )
    return [RowBlock(blocks)] if len(blocks) > 1 else list(blocks)


def folded(table: TableBlock, summary: str) -> Block:
    """The table, or a line that opens it if it is long."""
    return table if len(table.rows) <= _SHORT else DetailsBlock(summary, (table,))


def finite(value: Any) -> Any:
    """A number as JSON knows it: None where it is infinite or not a number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
