"""A report as one rich table, for the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from torchpare.report import numbers
from torchpare.report.comparison import Proof, Report, Row

__all__ = ["comparison_table"]


def comparison_table(report: Report) -> Table:
    """Dense against small, a line per property; then how far apart programs are that should compute the same."""
    table = Table(
        title=report.title, title_style="bold", header_style="bold", caption=_notes(report), caption_justify="left"
    )
    table.add_column("")  # where space is short, a name goes on in the next line: a number that is cut says nothing
    table.add_column("dense", justify="right", no_wrap=True)
    table.add_column("small", justify="right", no_wrap=True, style="bold")
    table.add_column("", justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(row.name, row.say(row.dense), row.say(row.small), Text(" ".join(row.change), style=_colour(row)))
    if report.proofs:
        table.add_section()
        table.add_row(Text("Largest output difference", style="bold"), "allowed", "found")
    for proof in report.proofs:
        table.add_row(f"  {proof.statement}", numbers.difference(proof.tolerance), numbers.difference(proof.difference),
                      _verdict(proof))  # fmt: skip
    return table


def _notes(report: Report) -> str:
    """How the numbers were found, each way once."""
    names: dict[str, list[str]] = {}
    for row in report.rows:
        names.setdefault(row.note, []).append(row.name)
    return "\n".join(f"{', '.join(rows)}: {note}" for note, rows in names.items())


def _colour(row: Row) -> str:
    if row.quantity == "share":
        return ""
    return "green" if row.factor > 1 else "red" if row.factor < 1 else ""


def _verdict(proof: Proof) -> Text:
    return Text("holds", style="green") if proof.holds else Text("FAILS", style="bold red")
