"""What a comparison operator by operator found: an immutable value that prints itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

__all__ = ["Bisimulation", "Tally"]


@dataclass
class Tally:
    """What was found about all calls of one operator."""

    mismatches: int = 0
    total: int = 0
    worst: float = 0.0
    """The largest difference, relative to the largest number in the result, or to a thousandth of those in the input
    where they cancel out."""
    first: str = ""
    """Where the first mismatch was: a module, or a parameter's name."""


@dataclass(frozen=True)
class Bisimulation:
    """The result of `bisimulate`.

    Attributes:
        tallies: by operator, in order of appearance; ``parameter`` and ``buffer`` stand for what the runs start from.
        tolerance: relative difference above which two results are a mismatch.
        incomparable: why the two runs could not be laid beside each other; empty where they could. Then `tallies`
            holds nothing.
    """

    tallies: Mapping[str, Tally] = field(default_factory=dict)
    tolerance: float = 1e-10
    incomparable: str = ""

    @property
    def mismatches(self) -> dict[str, Tally]:
        """The operators that computed something else at least once."""
        return {name: tally for name, tally in self.tallies.items() if tally.mismatches}

    @property
    def compared(self) -> int:
        """How many tensors were compared. Zero proves nothing."""
        return sum(tally.total for tally in self.tallies.values())

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.incomparable:
            yield f"not compared operator by operator: {self.incomparable}"
            return
        found = self.mismatches
        yield f"{self.compared:,} tensors compared, {sum(tally.mismatches for tally in found.values()):,} differ"
        for name, tally in found.items():
            yield f"{name}: {tally.mismatches} of {tally.total}, by up to {tally.worst:.2g}, first in {tally.first}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.incomparable:
            yield from self._lines()
            return
        table = Table(title="Dense and small model, operator by operator")
        table.add_column("operator")
        for column in ("compared", "differ", "by up to"):
            table.add_column(column, justify="right")
        table.add_column("first")
        for name, tally in sorted(self.tallies.items(), key=lambda item: -item[1].mismatches):
            worst = f"{tally.worst:.2g}"
            table.add_row(name, f"{tally.total}", f"{tally.mismatches}", worst, tally.first, style=_style(tally))
        yield table


def _style(tally: Tally) -> str:
    return "bold" if tally.mismatches else ""
