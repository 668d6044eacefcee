"""The table of docs/speed.md, from what benchmarks/deploy.py measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.pruners_page import write_between

__all__ = ["PAGE", "render"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "speed.md"
HEAD: Final = ("model", "runtime", "form", "CPU ms (quartiles)", "times as fast as dense", "file MB", "SNR dB")


def render(rows: list[dict[str, Any]], *, page: bool) -> Table:
    """The table for a terminal; with ``page`` it is written to the page too."""
    dense = {(row["model"], row["runtime"]): row["median"] for row in rows if row["form"] == "dense"}
    one = rows[0]
    about = f"Median CPU time of {one['runs']} runs on one thread, batch of 1, {one['environment']}."
    table = Table(*HEAD, title=about)
    lines = ["| " + " | ".join(HEAD) + " |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        ratio = dense[row["model"], row["runtime"]] / row["median"]
        quartiles = f"({row['lower_quartile'] * 1e3:.1f} to {row['upper_quartile'] * 1e3:.1f})"
        ratio_db = "float" if row["form"] in ("dense", "pruned") else f"{row['snr']:.1f}"
        time = f"{row['median'] * 1e3:.1f} {quartiles}"
        size = f"{row['file_bytes'] / 1e6:.1f}"
        cells = [row["model"], row["runtime"], row["form"], time, f"{ratio:.2f}", size, ratio_db]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    gains = "; ".join(_gains(rows))
    if page:
        write_between("deploy", "\n".join([*lines, "", about, "", gains]), "benchmarks/deploy.py", PAGE)
    return table


def _gains(rows: list[dict[str, Any]]) -> list[str]:
    """How much faster pruned + int8 is than int8 alone, for each model and runtime."""
    found = {(row["model"], row["runtime"], row["form"]): row["median"] for row in rows}
    return [
        f"{model} in {runtime}: pruned + int8 is {found[model, runtime, 'int8'] / median:.2f} times as fast as int8"
        for (model, runtime, form), median in found.items()
        if form == "pruned + int8"
    ]
