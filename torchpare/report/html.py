"""A report as one web page in one file: pictures inside, nothing fetched, nothing run.

It follows the reader's light or dark setting, fits a telephone, and prints.
"""

from __future__ import annotations

import os

from torchpare.files.atomic import atomic_write
from torchpare.report import figures, numbers
from torchpare.report.comparison import Layer, Report, Row
from torchpare.report.template import render_template

__all__ = ["render_html", "write_html"]

_ONE_COLUMN = 12  # so many layers are read at a glance; more are laid out in two columns


def write_html(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
        FileError: the file cannot be written.
    """
    page = render_html(report)
    with atomic_write(path) as lent:
        lent.write_text(page, encoding="utf-8")


def render_html(report: Report) -> str:
    """The page as text; well-formed XML after its first line.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    named = {row.name: row for row in report.rows}
    return render_template(
        "report.html.jinja",
        report=report,
        headlines=[named[name] for name in report.headlines],
        charts=_charts(report),
        holds=all(proof.holds for proof in report.proofs),
        numbers=numbers,
    )


def _charts(report: Report) -> dict[str, list[str]]:
    """The pictures by section; a section with nothing to show has none."""
    sizes = [row for row in report.rows if row.quantity in ("count", "bytes")]
    times = [row for row in report.rows if row.quantity == "seconds"]
    charts: dict[str, list[str]] = {"size": [], "time": [], "accuracy": [], "layers": []}
    if sizes:
        charts["size"] = [figures.paired_bars(sizes, _in_words(sizes))]
    if times:
        charts["time"] = [figures.paired_bars(times, _in_words(times))]
    if report.curves:
        charts["accuracy"] = [
            figures.curves(
                report.curves, "Accuracy after each epoch: it falls when filters are pruned, and comes back"
            ),
            figures.slopes(report.curves, "Accuracy of each run, dense and small"),
        ]
    if report.layers:
        widest = max(layer.before for layer in report.layers)
        charts["layers"] = [
            figures.channel_bars(
                part, "; ".join(f"{layer.name} {layer.before} to {layer.after}" for layer in part), widest
            )
            for part in _columns(report.layers)
        ]
    return charts


def _columns(layers: tuple[Layer, ...]) -> list[tuple[Layer, ...]]:
    if len(layers) <= _ONE_COLUMN:
        return [layers]
    half = (len(layers) + 1) // 2
    return [layers[:half], layers[half:]]


def _in_words(rows: list[Row]) -> str:
    return "; ".join(f"{row.name}: {row.say(row.dense)} dense, {row.say(row.small)} small" for row in rows)
