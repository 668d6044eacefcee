"""What came of a recipe: every stage's figures and verdicts, as a table, as JSON, and in a notebook."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import nn

from torchpare.files.atomic import atomic_write
from torchpare.recipe.budget import Verdict
from torchpare.report import numbers

__all__ = ["Result", "StageResult", "say"]

_SAY: dict[str, Callable[[float], str]] = {
    "accuracy": numbers.share, "parameters": numbers.count, "macs": numbers.count, "size": numbers.file_size,
    "latency": numbers.duration, "speedup": numbers.ratio, "memory": numbers.file_size,
}  # fmt: skip
_COLUMNS = ("parameters", "macs", "size", "memory", "latency", "speedup")


@dataclass(frozen=True)
class StageResult:
    """What a stage came to."""

    number: int
    """From 1; the dense model is 0."""
    name: str
    kind: str
    seconds: float
    metrics: Mapping[str, float]
    """Of the model after it: what ``evaluate`` says, parameters, macs, and what the stage measured."""
    dense: Mapping[str, float]
    """Of the dense model, as far as budgets may ask for it."""
    details: Mapping[str, Any]
    """What only this kind of stage has to tell; JSON-able."""
    failure: str = ""
    """Why the run stops here beside missed budgets."""
    verdicts: tuple[Verdict, ...] = ()
    fingerprint: str = ""

    @property
    def ok(self) -> bool:
        """Whether the run may go on."""
        return not self.failure and all(verdict.holds for verdict in self.verdicts)

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.number:02}-{self.name}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it; what is not finite is null."""
        return {
            "number": self.number, "name": self.name, "kind": self.kind, "seconds": self.seconds, "ok": self.ok,
            "metrics": _plain(self.metrics), "dense": _plain(self.dense), "details": _plain(self.details),
            "failure": self.failure, "verdicts": [_plain(verdict.model_dump()) for verdict in self.verdicts],
            "fingerprint": self.fingerprint,
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """Write it; this file says that the stage is done, so it comes last."""
        with atomic_write(path) as lent:
            lent.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a recipe.

    Attributes:
        name: of the recipe.
        folder: where every stage's files are.
        stages: the dense model, and every stage that ran, in order.
        planned: how many stages the recipe has.
        model: as the last of these left it; None where the run was read from its folder.
        environment: what it ran on.
        settings: the recipe, as plain data.
        beside: the folder of the recipe file, where what it names is looked for.
    """

    name: str
    folder: Path
    stages: tuple[StageResult, ...]
    planned: int
    model: nn.Module | None
    environment: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether every stage ran and every budget is met."""
        return len(self.stages) == self.planned + 1 and all(stage.ok for stage in self.stages)

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence."""
        last = self.stages[-1]
        if not last.ok:
            missed = [str(verdict) for verdict in last.verdicts if not verdict.holds]
            why = "; ".join(filter(None, [*missed, last.failure]))
            return f"stopped after stage {last.number} ({last.name}): {why}"
        if len(self.stages) < self.planned + 1:
            return f"{len(self.stages) - 1} of {self.planned} stages are done"
        budgets = sum(len(stage.verdicts) for stage in self.stages)
        met = {0: "", 1: " and its budget is met"}.get(budgets, f" and all {budgets} budgets are met")
        return f"all stages are done{met}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        return {
            "name": self.name, "ok": self.ok, "verdict": self.verdict, "planned": self.planned,
            "stages": [stage.to_dict() for stage in self.stages], "environment": dict(self.environment),
            "recipe": dict(self.settings), "beside": None if self.beside is None else str(self.beside),
        }  # fmt: skip

    def write_json(self, path: Path) -> None:
        """Write it for programs to read."""
        with atomic_write(path) as lent:
            lent.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def columns(self) -> list[str]:
        """The metrics that some stage has: those of ``evaluate`` first."""
        seen = dict.fromkeys(name for stage in self.stages for name in stage.metrics)
        own = [name for name in seen if name not in _COLUMNS]
        return [*own, *(name for name in _COLUMNS if name in seen)]

    def table(self) -> Table:
        """A row for the dense model and for every stage."""
        table = Table(title=Text(self.name), title_style="bold", header_style="bold")
        table.add_column("stage", no_wrap=True)
        columns = self.columns()
        for name in columns:
            table.add_column(Text(name), justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("budgets")
        dense = self.stages[0].metrics
        for stage in self.stages:
            cells = [_cell(name, stage, dense) for name in columns]
            words = Text("\n").join(
                Text(str(verdict), style="green" if verdict.holds else "bold red") for verdict in stage.verdicts
            )
            if stage.failure:
                words = Text("\n").join(
                    [*([words] if words else []), Text(stage.failure.splitlines()[0], style="bold red")]
                )
            table.add_row(stage.name, *cells, numbers.duration(stage.seconds), words)
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, and the verdict."""
        yield self.table()
        yield Text(self.verdict, style="bold green" if self.ok else "bold red")

    def __repr__(self) -> str:
        """The table as text."""
        console = Console(file=StringIO(), width=140, force_terminal=False)
        console.print(self)
        assert isinstance(console.file, StringIO)
        return console.file.getvalue().rstrip()

    def _repr_html_(self) -> str:
        """The table, as a notebook shows it."""
        columns, dense = self.columns(), self.stages[0].metrics
        head = "".join(f"<th>{escape(name)}</th>" for name in ("stage", *columns, "time", "budgets"))
        rows = []
        for stage in self.stages:
            cells = [stage.name, *(_cell(name, stage, dense) for name in columns), numbers.duration(stage.seconds)]
            said = [*map(str, stage.verdicts), *([stage.failure.splitlines()[0]] if stage.failure else [])]
            told = "<br>".join(map(escape, said))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + f"<td>{told}</td></tr>")
        return (f"<table><caption>{escape(self.name)}: {escape(self.verdict)}</caption><thead><tr>{head}</tr></thead>"
                f"<tbody>{''.join(rows)}</tbody></table>")  # fmt: skip


def say(name: str, value: float) -> str:
    """A metric in words."""
    if not math.isfinite(value):
        return str(value)
    if name == "accuracy" and not 0 <= value <= 1:  # in percent, or something else altogether
        return f"{value:.4g}"
    return _SAY.get(name, "{:.4g}".format)(value)


def _cell(name: str, stage: StageResult, dense: Mapping[str, float]) -> str:
    if name not in stage.metrics:
        return ""
    said = say(name, stage.metrics[name])
    if stage.number and name in ("parameters", "macs", "size") and dense.get(name) and stage.metrics[name]:
        return f"{said} ({numbers.ratio(dense[name] / stage.metrics[name])})"
    return said


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
