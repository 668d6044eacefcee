"""The part of a run's page on time and memory: where the model will live, beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchpare.recipe.result import Result, StageResult, say
from torchpare.report import Amount, Row, figures, numbers
from torchpare.report.blocks import Block, Cell, ChartBlock, Column, TableBlock, TextBlock
from torchpare.report.page import Section

__all__ = ["time_charts", "times"]


def time_charts(result: Result) -> list[Block]:
    """Bars of every runtime and batch size, with quartiles."""
    blocks: list[Block] = []
    for bench in _benchmarks(result):
        rows = [
            Row(f"{ours['runtime']}, batch {ours['batch']}", "seconds", _interval(dense), _interval(ours), "", "faster",
                "slower")
            for dense, ours in _pairs(bench)
        ]  # fmt: skip
        said = "; ".join(f"{row.name}: {row.say(row.dense)} dense, {row.say(row.small)}" for row in rows)
        one = bench["rows"][0]
        threads = f"{one['seconds_threads']} thread{'s' * (one['seconds_threads'] > 1)}"
        caption = f"Median of {one['seconds_runs']}, taking turns, with quartiles; {threads}."
        blocks.append(ChartBlock(figures.paired_bars(rows, said), caption, said, title="Time for a batch"))
    return blocks


def times(result: Result) -> Section:
    """The section: a table for each benchmark, what the guard found, and what the runtimes' answers are worth."""
    blocks: list[Block] = []
    for bench in _benchmarks(result):
        table = [
            [f"{ours['runtime']}, batch {ours['batch']}", numbers.duration(dense["seconds_median"]),
             numbers.duration(ours["seconds_median"]),
             Cell(f"{ours['speedup']:.2f}", "good" if ours["speedup"] > 1 else "bad"),
             numbers.file_size(dense["file_bytes"]), numbers.file_size(ours["file_bytes"]),
             *map(_peak, (dense, ours)),
             None if ours["output_snr"] is None else f"{ours['output_snr']:.1f} dB"]
            for dense, ours in _pairs(bench)
        ]  # fmt: skip
        names = (
            "dense",
            "small",
            "times as fast",
            "file, dense",
            "file, small",
            "memory, dense",
            "memory, small",
            "output SNR",
        )
        note = "Output SNR: what the runtime computes, against the same model in PyTorch's float32."
        blocks.append(TableBlock([Column("runtime"), *(Column(name, numeric=True) for name in names)], table, note))
        for each in bench["slower"]:
            why = "\n\n".join(each["reasons"]) or "Nothing that is known to be slow was found."
            head = f"Not faster than dense in {each['runtime']} at batch {each['batch']}."
            blocks.append(TextBlock(f"{head}\n\n{why}", "bad"))
    for stage in result.stages:
        blocks += _in_runtimes(stage)
    return Section(
        "Where it will live", "The dense model and this one in the same runtime, in the same minute.", blocks
    )


def _peak(row: Mapping[str, Any]) -> str | None:
    return None if row.get("peak_bytes") is None else numbers.file_size(row["peak_bytes"])


def _benchmarks(result: Result) -> list[Mapping[str, Any]]:
    return [stage.details["benchmark"] for stage in result.stages if "benchmark" in stage.details]


def _pairs(bench: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The dense model's row and the other's, for each runtime and batch size."""
    dense = {(row["runtime"], row["batch"]): row for row in bench["rows"] if row["name"] == "dense"}
    return [(dense[row["runtime"], row["batch"]], row) for row in bench["rows"] if row["name"] != "dense"]


def _in_runtimes(stage: StageResult) -> list[Block]:
    said: Mapping[str, Mapping[str, Any]] = stage.details.get("metrics", {})
    names = list(dict.fromkeys(name for own in said.values() for name in own if name != "error"))
    if not names and not any("error" in own for own in said.values()):
        return []
    rows = []
    for runtime, own in said.items():
        cells = [say(name, own[name]) if name in own else None for name in names]
        rows.append([runtime, *cells, Cell(own.get("error", ""), "bad" if "error" in own else "")])
    heads = [Column("runtime"), *(Column(name, numeric=True) for name in names), Column("")]
    return [TableBlock(heads, rows, title="What the runtimes' own answers are worth")]


def _interval(row: Mapping[str, Any]) -> Amount:
    return Amount(row["seconds_median"], row["seconds_lower_quartile"], row["seconds_upper_quartile"])
