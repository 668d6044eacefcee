"""What a table of a page is made of: the heads of its columns and its places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Cell", "Column", "Tone", "cell_of"]

Tone = Literal["", "good", "bad", "soft"]
"""What a figure means to the reader: nothing in particular, good news, bad news, or an aside."""


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Args:
        text: what it says.
        tone: how it is meant.
        share: draws a bar behind the text, from 0 to 1 of the column's width; none where it is None.
        note: a few words below it, in small type.
    """

    text: str
    tone: Tone = ""
    share: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {"text": self.text, "tone": self.tone, "share": self.share, "note": self.note}


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Args:
        name: what it says; may be empty.
        numeric: that it holds numbers, which are set flush right. A column whose cells were all given as numbers is
            numeric anyway.
        note: what it means, below the name in small type.
    """

    name: str
    numeric: bool = False
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {"name": self.name, "numeric": self.numeric, "note": self.note}


def cell_of(value: str | float | Cell | None) -> Cell:
    """A place out of words, a number, or None, which is a dash."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("\N{EN DASH}", "soft")
    if isinstance(value, (bool, str)):
        return Cell(str(value))
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
