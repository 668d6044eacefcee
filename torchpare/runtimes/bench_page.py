"""A benchmark as one page: bars for every runtime and batch size, the table, and what the guard found."""

from __future__ import annotations

import os

from torchpare.report import (
    Amount,
    Block,
    Cell,
    ChartBlock,
    Column,
    Page,
    RowBlock,
    Section,
    TableBlock,
    TextBlock,
    figures,
    numbers,
    write_page,
)
from torchpare.report import Row as Bars
from torchpare.report.page import Verdict
from torchpare.runtimes.bench import DENSE, Benchmark, Row

__all__ = ["page_of_benchmark", "write_benchmark"]


def write_benchmark(found: Benchmark, path: str | os.PathLike[str]) -> None:
    """Write the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
        FileError: the file cannot be written.
    """
    write_page(page_of_benchmark(found), path)


def page_of_benchmark(found: Benchmark) -> Page:
    """The page of a benchmark."""
    names = list(dict.fromkeys(row.name for row in found.rows if row.name != DENSE))
    sections = [
        Section("Time", "Medians with their quartiles, dense in grey.", [RowBlock([_bars(found, n) for n in names])]),
        Section("In figures", blocks=[_table(found)]),
    ]
    why: list[Block] = [TextBlock(str(each).replace("\n", "\n\n"), "bad") for each in found.slower]
    if why:
        sections.append(Section("Not faster, and why", blocks=why))
    one = found.rows[0].taken
    are = "is" if len(found.slower) == 1 else "are"
    slower = f"{len(found.slower)} of {len(found.rows) - len(_dense(found))} measurements {are} not faster than dense."
    verdict = Verdict("Everything is faster than the dense model.", "good") if found.ok else Verdict(slower, "bad")
    facts = {"Machine": one.environment, "Threads": str(one.threads), "Timed rounds": str(one.runs)}
    summary = f"{', '.join(names)} beside the dense model, taking turns in the same runtimes."
    return Page("Dense against compressed", summary, verdict, sections, (), facts, kind="torchpare bench")


def _dense(found: Benchmark) -> dict[tuple[str, int], Row]:
    return {(row.runtime, row.batch): row for row in found.rows if row.name == DENSE}


def _bars(found: Benchmark, name: str) -> ChartBlock:
    dense = {place: _amount(row) for place, row in _dense(found).items()}
    rows = [
        Bars(f"{row.runtime}, batch {row.batch}", "seconds", dense[row.runtime, row.batch], _amount(row), "", "faster",
             "slower")
        for row in found.rows if row.name == name
    ]  # fmt: skip
    said = "; ".join(f"{row.name}: {row.say(row.dense)} dense, {row.say(row.small)} {name}" for row in rows)
    return ChartBlock(figures.paired_bars(rows, said), "For a batch.", said, title=name)


def _table(found: Benchmark) -> TableBlock:
    rows = [
        [row.runtime, row.batch, row.name, numbers.duration(row.taken.median),
         f"{numbers.duration(row.taken.lower_quartile)} to {numbers.duration(row.taken.upper_quartile)}",
         Cell(f"{row.speedup:.2f}", "" if row.name == DENSE else "good" if row.speedup > 1 else "bad"),
         numbers.file_size(row.file_bytes), None if row.peak_bytes is None else numbers.file_size(row.peak_bytes),
         f"{row.output_snr:.1f} dB" if row.output_snr < float("inf") else None]
        for row in found.rows
    ]  # fmt: skip
    heads = ("time", "quartiles", "times as fast", "file", "peak memory", "output SNR")
    columns = ["runtime", Column("batch", numeric=True), "model", *(Column(head, numeric=True) for head in heads)]
    note = "Peak memory: what loading and running took at most, in a process of its own, beyond what that held before."
    return TableBlock(columns, rows, note)


def _amount(row: Row) -> Amount:
    return Amount(row.taken.median, row.taken.lower_quartile, row.taken.upper_quartile)
