"""The tables and the picture of benchmarks/quantizers.py, for a terminal and for docs/quantizers.md."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.pruners_page import write_between
from torchpare.files.atomic import atomic_write

__all__ = ["PAGE", "render"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "quantizers.md"
_UNTRAINED: Final = ("Naive", "Observer", "mse")


def render(known: dict[str, Any], methods: list[str], settings: list[str], *, page: bool) -> list[Table]:
    """A table for each net; with ``page``, the page's tables and picture are written too."""
    cells: dict[tuple[str, str, str], list[float]] = {}
    for key, value in sorted(known["cells"].items()):
        net, method, setting, _ = key.split("|")
        cells.setdefault((net, method, setting), []).append(math.nan if value is None else 100 * value)
    dense: dict[str, list[float]] = {}
    for key, value in known["dense"].items():
        dense.setdefault(key.split("|")[0], []).append(100 * value)
    tables, parts = [], []
    for net, its in dense.items():
        table = Table(net, *settings)
        lines = [f"| {net}, dense {words(its)} | " + " | ".join(settings) + " |", "|---" * (len(settings) + 1) + "|"]
        for method in methods:
            row = [words(cells.get((net, method, setting), [])) for setting in settings]
            if any(cell != "—" for cell in row):
                table.add_row(method, *row)
                lines.append(f"| {method} | " + " | ".join(row) + " |")
        tables.append(table)
        parts.append("\n".join(lines))
    if page:
        about = (
            f"Test accuracy, %: mean and standard deviation of {known['seeds']} seeds; {known['epochs']} epochs where "
            "a method trains."
        )
        write_between("quality", "\n\n".join([*parts, about]), "benchmarks/quantizers.py", page=PAGE)
        draw(cells, dense, methods, settings)
    return tables


def words(values: list[float]) -> str:
    """Mean and spread."""
    if not values:
        return "—"
    if any(map(math.isnan, values)):
        return "diverges"
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def draw(cells: dict[Any, list[float]], dense: dict[str, list[float]], methods: list[str], settings: list[str]) -> None:
    """A panel for each net: accuracy against bits; dashed is without training."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "torchpare"  # equal figures give an equal file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(dense), figsize=(5.2 * len(dense), 5.4), squeeze=False, sharey=True)
    colours = mpl.colormaps["tab20"]
    for axis, (net, its) in zip(axes[0], dense.items(), strict=True):
        for at, method in enumerate(methods[1:]):
            points = [
                (number, statistics.fmean(cells[net, method, setting]))
                for number, setting in enumerate(settings)
                if (net, method, setting) in cells
            ]
            if points:
                style = "--" if method.startswith(_UNTRAINED) else "-"
                axis.plot(*zip(*points, strict=True), style, marker="o", ms=3, lw=1.2, color=colours(at), label=method)
        axis.axhline(statistics.fmean(its), color="black", linestyle=":", linewidth=1)
        axis.set_xticks(range(len(settings)), settings)
        axis.set_title(net)
    axes[0][0].set_ylabel("test accuracy, %")
    handles, labels = axes[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.2, 1, 1))
    path = PAGE.with_suffix("") / "quality.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as lent:
        figure.savefig(lent, format="svg", metadata={"Date": None})
    plt.close(figure)
