"""The results of a suite as a table: for the terminal, and for docs/zoo.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from torchpare.errors import TorchpareError
from torchpare.report import numbers
from torchpare.zoo.results import Result, Stage, SuiteResults
from torchpare.zoo.suites import names

__all__ = ["markdown", "summary", "table"]

_COLUMNS = ("model", "result", "parameters kept", "difference", "function", "seconds", "reason")
_RIGHT = {"parameters kept", "difference", "seconds"}
_LENGTH = 160  # of a reason, at most: the files of results hold all of it
_TIMES = "\N{MULTIPLICATION SIGN}"

_INTRODUCTION = """\
# The zoo: how far "any model shrinks" is true

Each line is one model, in a process of its own, with random weights and random norm statistics. A part of every group
of channels, heads and widths that may lose some goes; the small model is compared with the masked one in float64, run
in float32, saved and loaded into a fresh model, exported to ONNX and run there, and trained for a step. `make zoo`
makes this page; the numbers behind it are in `docs/zoo`.

- *parameters kept*: what is left. Half of both sides of every layer leaves a quarter; what stays above that is frozen:
  inputs, outputs, sizes written in the model's source, operators without a rule.
- *difference*: the largest between the small and the masked model, relative to the largest output, in float64.
- *function*: *exact*, or the kinds of places where removing channels changes the function by nature, such as a norm
  over the channels that are fewer now, and how many of each. There, the comparison is with the model whose norms run
  over what stays.
- *reason*: why it is a miss, or what the dense model cannot do either; the latter does not count.
"""


def summary(results: SuiteResults) -> str:
    """One line: how many of how many, and what the others died of."""
    good = sum(result.ok for result in results.results)
    line = f"{results.suite}: {good} of {len(results.results)} models"
    if results.results:
        line += f" ({100 * good / len(results.results):.1f} %)"
    missed = Counter(result.reason for result in results.results if not result.ok)
    if missed:
        line += "; missed: " + ", ".join(f"{count} {_TIMES} {reason}" for reason, count in missed.most_common())
    excused = Counter(stage.name for result in results.results for stage in result.excused)
    if excused:
        told = ", ".join(f"{count} {_TIMES} {name}" for name, count in excused.most_common())
        line += f"; not counted, for the dense model fails too: {told}"
    return line


def table(results: SuiteResults) -> Table:
    """For the terminal."""
    made = Table(caption=summary(results), caption_justify="left", header_style="bold")
    for column in _COLUMNS:
        made.add_column(column, justify="right" if column in _RIGHT else "left", overflow="fold")
    for result in results.results:
        cells = [Text(cell) for cell in _cells(result)]
        cells[1].stylize("green" if result.ok else "bold red")
        made.add_row(*cells)
    return made


def markdown(suites: Iterable[SuiteResults]) -> str:
    """The page, a section for each suite."""
    suites = list(suites)
    parts = [_INTRODUCTION, "\n".join(f"- {summary(suite)}" for suite in suites)]
    for suite in suites:
        versions = ", ".join(f"{name} {version}" for name, version in suite.versions.items())
        asked = f"Asked to go: {100 * suite.ratio:g} % of every group. {'' if suite.onnx else 'Not exported to ONNX. '}"
        asked += _share(suite)
        rows = ["| " + " | ".join(_COLUMNS) + " |"]
        rows += ["|" + "|".join("--:" if column in _RIGHT else "---" for column in _COLUMNS) + "|"]
        rows += ["| " + " | ".join(map(_escaped, _cells(result))) + " |" for result in suite.results]
        parts += [f"## {suite.suite}", f"{asked}With {versions}.", "\n".join(rows)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _share(suite: SuiteResults) -> str:
    """How much of a suite was examined, where its library is here to tell what there is."""
    try:
        total = len(names(suite.suite))
    except TorchpareError:
        return ""
    return f"Examined: {len(suite.results)} of the suite's {total} models. "


def _cells(result: Result) -> list[str]:
    return [
        result.model,
        "ok" if result.ok else "missed",
        "" if result.kept is None else f"{100 * result.kept:.1f} %",
        "" if result.largest_difference is None else numbers.difference(result.largest_difference),
        _function(result),
        f"{result.seconds:.1f}",
        "; ".join(_short(_reason(stage)) for stage in (*result.misses, *result.excused)),
    ]


def _function(result: Result) -> str:
    if result.exact is None:
        return ""
    if result.exact:
        return "exact"
    return ", ".join(f"{kind} {_TIMES} {count}" for kind, count in result.changes.items()) or "changed"


def _reason(stage: Stage) -> str:
    return stage.detail if stage.excused else f"{stage.reason}: {stage.detail}"


def _short(text: str) -> str:
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"


def _escaped(cell: str) -> str:
    """As one cell of a Markdown table."""
    return re.sub(r"([|<>*_\[\]`\\])", r"\\\1", cell)
