"""A run as one web page: the verdict, the figures, every stage, the times, the proofs, and the recipe itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from torchpare.recipe.page_times import time_charts, times
from torchpare.recipe.result import Result, StageResult, say
from torchpare.report import Amount, Layer, Row, figures, numbers
from torchpare.report.blocks import (
    Block,
    Cell,
    ChartBlock,
    CodeBlock,
    Column,
    DetailsBlock,
    RowBlock,
    TableBlock,
    block_of,
)
from torchpare.report.journey_figure import Leg, journey
from torchpare.report.page import Headline, Page, Section, Verdict, write_page

__all__ = ["page_of", "write_report"]

_SIZES = (("parameters", "Parameters", "count", "fewer", "more"), ("macs", "MACs", "count", "fewer", "more"),
          ("size", "File", "bytes", "smaller", "larger"))  # fmt: skip
_ONE_COLUMN = 14


def write_report(result: Result, path: str | os.PathLike[str]) -> None:
    """Write the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
        FileError: the file cannot be written.
    """
    write_page(page_of(result), path)


def page_of(result: Result) -> Page:
    """The page of a run."""
    kinds = " → ".join(stage.name for stage in result.stages)
    sections = [
        _stages(result),
        Section("How good it is", blocks=_journey(result)),
        Section(
            "Size and speed",
            "The dense model in grey, what came of it in colour; both measured in the same run.",
            [RowBlock([*_sizes(result), *time_charts(result)])] if _sizes(result) or time_charts(result) else [],
        ),
        times(result),
        _layers(result),
        _proofs(result),
        *_insights(result),
        Section("The recipe", blocks=[DetailsBlock("As it was run", [CodeBlock(_words(result.settings))])]),
    ]
    return Page(
        result.name,
        f"From a trained model to a measured small one: {kinds}.",
        Verdict(_sentence(result.verdict), "good" if result.ok else "bad"),
        [section for section in sections if section.blocks],
        _headlines(result),
        result.environment,
        kind="torchpare run",
    )


def _headlines(result: Result) -> list[Headline]:
    """What changed most, at a glance: the metric, sizes, speed."""
    first, found = result.stages[0], []
    last = _last(result)
    for name in [name for name in result.columns() if name in first.metrics and name in last.metrics][:4]:
        before, after = first.metrics[name], last.metrics[name]
        detail = f"{say(name, before)} → {say(name, after)}"
        if before == after:
            continue
        if name in ("parameters", "macs", "size"):
            gain, loss = ("smaller", "larger") if name == "size" else ("fewer", "more")
            title = {"parameters": "Parameters", "macs": "MACs", "size": "File"}[name]
            if after > before > 0:
                found.append(Headline(title, numbers.ratio(after / before), loss, detail, "bad"))
            else:
                found.append(Headline(title, numbers.ratio(before / after if after else 1.0), gain, detail))
        elif name == "accuracy" and 0 <= before <= 1:
            change = numbers.points(after - before)
            found.append(Headline("Accuracy", change, "points", detail))
        else:
            found.append(Headline(name, say(name, after), "", detail))
    if "speedup" in last.metrics:
        factor = last.metrics["speedup"]
        tone = "good" if factor > 1 else "bad"
        found.append(Headline("Speed, at its least", numbers.ratio(factor), "as fast", "", tone))
    return found


def _stages(result: Result) -> Section:
    columns = result.columns()
    rows = []
    for stage in result.stages:
        told = [str(verdict) for verdict in stage.verdicts] + ([stage.failure.splitlines()[0]] if stage.failure else [])
        tone = "bad" if not stage.ok else "good" if told else ""
        cells: list[Any] = [Cell(stage.name, note=stage.kind if stage.kind != stage.name else "")]
        cells += [Cell(say(name, stage.metrics[name])) if name in stage.metrics else None for name in columns]
        rows.append([*cells, Cell(numbers.duration(stage.seconds)), Cell("; ".join(told), tone)])
    heads = [Column("stage"), *(Column(name, numeric=True) for name in columns), Column("took", numeric=True),
             Column("budget")]  # fmt: skip
    note = ""
    if len(result.stages) < result.planned + 1:
        note = f"{result.planned + 1 - len(result.stages)} of {result.planned} stages did not run."
    return Section(
        "Stage by stage", "What was measured of the model after each stage.", [TableBlock(heads, rows, note)]
    )


def _journey(result: Result) -> list[Block]:
    name = next((name for name in result.columns() if name in result.stages[0].metrics
                 and name not in ("parameters", "macs", "size")), None)  # fmt: skip
    if name is None:
        return []
    legs = []
    for stage in result.stages:
        epochs = [float(epoch["metrics"][name]) for epoch in stage.details.get("history", ())
                  if name in epoch.get("metrics", {})]  # fmt: skip
        behind = [stage.metrics[name]] if name in stage.metrics and not epochs else []
        if epochs or behind:
            legs.append(Leg(stage.name, tuple(epochs or behind)))
    said = "; ".join(f"{leg.name} {say(name, leg.values[-1])}" for leg in legs)
    picture = journey(legs, f"{name}: {said}", lambda value: say(name, value))
    caption = "After every epoch of training, and after every stage; the dashed line is the model that came in."
    return [ChartBlock(picture, caption, said, title=name.capitalize(), wide=True)]


def _sizes(result: Result) -> list[Block]:
    first, last = result.stages[0].metrics, _last(result).metrics
    rows = [
        Row(title, kind, Amount(first[key]), Amount(last[key]), "", gain, loss)  # type: ignore[arg-type] - a literal
        for key, title, kind, gain, loss in _SIZES
        if first.get(key) and last.get(key)
    ]
    if not rows:
        return []
    said = "; ".join(f"{row.name} {row.say(row.dense)} dense, {row.say(row.small)} small" for row in rows)
    return [ChartBlock(figures.paired_bars(rows, said), "Of the model, and of its smallest file.", said, title="Size")]


def _layers(result: Result) -> Section:
    stage = next((stage for stage in reversed(result.stages) if "shrink" in stage.details), None)
    if stage is None:
        return Section("Layers")
    layers = [Layer(str(row["name"]), int(row["channels_before"]), int(row["channels_after"]))
              for row in stage.details["shrink"]["layers"] if row["channels_before"]]  # fmt: skip
    if not layers:
        return Section("Layers")
    widest = max(layer.before for layer in layers)
    parts = (
        [layers] if len(layers) <= _ONE_COLUMN else [layers[: (len(layers) + 1) // 2], layers[(len(layers) + 1) // 2 :]]
    )
    charts = []
    for part in parts:
        said = "; ".join(f"{layer.name} {layer.before} to {layer.after}" for layer in part)
        charts.append(ChartBlock(figures.channel_bars(part, said, widest), "", said))
    return Section("Layer by layer", "Output channels before, and in colour what is left.", [RowBlock(charts)])


def _proofs(result: Result) -> Section:
    rows: list[list[Any]] = []
    for stage in result.stages:
        shrink = stage.details.get("shrink")
        if shrink is not None and shrink["largest_difference"] is not None:
            holds = shrink["largest_difference"] <= shrink["tolerance"]
            rows.append([f"{stage.name}: the small model computes what the masked one did, in {shrink['dtype']}",
                         numbers.difference(shrink["tolerance"]), numbers.difference(shrink["largest_difference"]),
                         Cell("holds" if holds else "fails", "good" if holds else "bad")])  # fmt: skip
        for file in stage.details.get("files", ()):
            said = f"{stage.name}: {file['file']}, {numbers.file_size(file['bytes'])}"
            if file.get("difference") is not None:
                rows.append([f"{said}, run beside PyTorch", "1e-4 of the range", numbers.difference(file["difference"]),
                             Cell("holds", "good")])  # fmt: skip
            elif "first_offending" in file:
                first = file["first_offending"]
                ratio = "" if file.get("snr") is None else f"{file['snr']:.1f} dB"
                verdict = Cell("holds", "good") if first is None else Cell(f"{first} differs", "bad")
                rows.append([f"{said}, beside fake quantization", "a step of the last bit", ratio, verdict])
    heads = [Column("statement"), Column("allowed", numeric=True), Column("found", numeric=True), Column("")]
    blocks: list[Block] = [TableBlock(heads, rows)] if rows else []
    for stage in result.stages:
        says = stage.details.get("says")
        if says:
            blocks.append(DetailsBlock(f"What {stage.name} says", [CodeBlock("\n".join(says))]))
    return Section("Proofs", "Two programs that should compute the same, and how far apart they were at most.", blocks)


def _insights(result: Result) -> list[Section]:
    """What stages ``study`` have found, each of their sections by itself."""
    found = []
    for stage in result.stages:
        for said in stage.details.get("sections", ()):
            title = said["title"] if stage.name == "study" else f"{said['title']} ({stage.name})"
            found.append(Section(title, said["text"], [block_of(block) for block in said["blocks"]]))
    return found


def _last(result: Result) -> StageResult:
    return result.stages[-1]


def _words(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=2)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")
