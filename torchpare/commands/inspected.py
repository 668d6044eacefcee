"""What a file is, as a value that prints itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

__all__ = ["Inspected"]


@dataclass(frozen=True)
class Inspected:
    """What a file is, in a sentence, some facts and a table."""

    path: str
    what: str
    facts: Mapping[str, str]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"path": self.path, "what": self.what, "facts": dict(self.facts), "rows": rows}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The sentence, the facts, the table."""
        words = (f"{self.path}: {self.what}", *(f"  {name}: {value}" for name, value in self.facts.items()))
        parts: list[Any] = [_shown(each) for each in words]
        if self.rows:
            table = Table(header_style="bold")
            for number, name in enumerate(self.columns):
                table.add_column(
                    _shown(name), justify="right" if number and self.rows[0][number][:1].isdigit() else "left"
                )
            for row in self.rows:
                table.add_row(*map(_shown, row))
            parts.append(table)
        yield Group(*parts)


def _shown(words: str) -> Text:
    """Words of a file that nobody trusts: no markup, and nothing that a terminal obeys."""
    return Text("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in words))
