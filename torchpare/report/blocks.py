"""What a page is built of, as immutable values: text, tables, charts, facts, code, and what is folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torchpare.errors import ConfigError
from torchpare.report.cells import Cell, Column, Tone, cell_of
from torchpare.report.harmless import check_picture

__all__ = [
    "Block",
    "Cell",
    "ChartBlock",
    "CodeBlock",
    "Column",
    "DetailsBlock",
    "FactsBlock",
    "RowBlock",
    "TableBlock",
    "TextBlock",
    "Tone",
    "block_of",
]


@dataclass(frozen=True)
class TextBlock:
    """A paragraph.

    Args:
        text: plain words; blank lines part paragraphs.
        tone: ``"bad"`` and ``"good"`` set it apart as a notice.
    """

    text: str
    tone: Tone = ""
    kind: str = field(default="text", init=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {"kind": self.kind, "text": self.text, "tone": self.tone}


@dataclass(frozen=True)
class TableBlock:
    """A table, which scrolls in its own box where the page is narrower.

    Args:
        columns: their heads, as strings or as :class:`Column`.
        rows: of strings, numbers, None (a dash) or :class:`Cell`; each as long as ``columns``.
        note: how the numbers were found, below the table.
        title: above it.

    Raises:
        ConfigError: a row has more or fewer places than there are columns.
    """

    columns: Sequence[str | Column]
    rows: Sequence[Sequence[str | float | Cell | None]]
    note: str = ""
    title: str = ""
    kind: str = field(default="table", init=False)

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ConfigError(
                    f"TableBlock {self.title!r}: row {number} has {len(row)} places and there are {len(self.columns)} "
                    "columns; give one for each, None where there is nothing to say"
                )
        cells = tuple(tuple(cell_of(value) for value in row) for row in self.rows)
        heads = tuple(
            column if isinstance(column, Column) else Column(column, _all_numbers(at, self.rows))
            for at, column in enumerate(self.columns)
        )
        object.__setattr__(self, "rows", cells)
        object.__setattr__(self, "columns", heads)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them; every place as a :class:`Cell`."""
        columns = [column.to_dict() for column in self.columns if isinstance(column, Column)]
        rows = [[cell.to_dict() for cell in row if isinstance(cell, Cell)] for row in self.rows]
        return {"kind": self.kind, "title": self.title, "columns": columns, "rows": rows, "note": self.note}


@dataclass(frozen=True)
class ChartBlock:
    """A picture.

    Args:
        svg: an inline ``<svg>`` element, as :mod:`torchpare.report.svg` draws it. Its colours are classes of the page's
            style sheet, so that they follow light and dark.
        caption: what one sees, above the picture.
        alt: the same for those who do not see it; screen readers say this.
        title: in bold before the caption.
        wide: that it takes the whole width also where charts stand side by side.
        more: further pictures that go on where the first one ends; they stand side by side where there is room.

    Raises:
        ConfigError: ``svg`` is no well-formed svg element, or one that could run or fetch something; or ``alt`` is
            empty.
    """

    svg: str
    caption: str
    alt: str
    title: str = ""
    wide: bool = False
    more: Sequence[str] = ()
    kind: str = field(default="chart", init=False)

    def __post_init__(self) -> None:
        for picture in (self.svg, *self.more):
            check_picture(picture)
        if not self.alt.strip():
            raise ConfigError(f"ChartBlock {self.caption!r}: alt is empty; say in words what the picture shows")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        said = {"title": self.title, "caption": self.caption, "alt": self.alt}
        return {"kind": self.kind, **said, "wide": self.wide, "svg": [self.svg, *self.more]}


@dataclass(frozen=True)
class FactsBlock:
    """Names and what they stand for, in two columns: settings, versions, circumstances."""

    facts: Mapping[str, str]
    kind: str = field(default="facts", init=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {"kind": self.kind, "facts": {str(name): str(value) for name, value in self.facts.items()}}


@dataclass(frozen=True)
class CodeBlock:
    """Text whose line breaks and spaces count: a recipe, a command, a traceback."""

    text: str
    title: str = ""
    kind: str = field(default="code", init=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {"kind": self.kind, "title": self.title, "text": self.text}


@dataclass(frozen=True)
class RowBlock:
    """Blocks side by side, as far as there is room: charts mostly."""

    blocks: Sequence[Block]
    kind: str = field(default="row", init=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {"kind": self.kind, "blocks": [block.to_dict() for block in self.blocks]}


@dataclass(frozen=True)
class DetailsBlock:
    """Blocks that are folded away until the reader asks for them; on paper they are there."""

    summary: str
    blocks: Sequence[Block]
    open: bool = False
    kind: str = field(default="details", init=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        blocks = [block.to_dict() for block in self.blocks]
        return {"kind": self.kind, "summary": self.summary, "open": self.open, "blocks": blocks}


Block: TypeAlias = TextBlock | TableBlock | ChartBlock | FactsBlock | CodeBlock | RowBlock | DetailsBlock


def block_of(said: Mapping[str, Any]) -> Block:
    """A block out of what its ``to_dict`` gave.

    Args:
        said: as JSON holds it.

    Raises:
        ConfigError: it is no block, or one that could run something.
    """
    kinds: dict[str, Any] = {
        "text": TextBlock, "table": TableBlock, "chart": ChartBlock, "facts": FactsBlock, "code": CodeBlock,
        "row": RowBlock, "details": DetailsBlock,
    }  # fmt: skip
    values = {name: value for name, value in said.items() if name != "kind"}
    try:
        if "blocks" in values:
            values["blocks"] = [block_of(block) for block in values["blocks"]]
        if said["kind"] == "chart":
            values["svg"], *values["more"] = values["svg"]
        if said["kind"] == "table":
            values["columns"] = [Column(**column) for column in values["columns"]]
            values["rows"] = [[Cell(**cell) for cell in row] for row in values["rows"]]
        return kinds[said["kind"]](**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"this is no block of a page: {type(error).__name__}: {error}") from error


def _all_numbers(at: int, rows: Sequence[Sequence[Any]]) -> bool:
    values = [row[at] for row in rows if row[at] is not None]
    return bool(values) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
