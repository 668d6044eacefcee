"""The table of benchmarks/distillation.py, for a terminal and for docs/distillation.md."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.pruners_page import write_between

__all__ = ["PAGE", "render"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "distillation.md"


def render(known: dict[str, Any], methods: list[str], sparsities: list[float], *, page: bool) -> list[Table]:
    """A table for each net; with ``page``, the page's table and its verdict are written too."""
    cells = {tuple(key.split("|")): 100 * value for key, value in known["cells"].items()}
    dense: dict[str, list[float]] = {}
    for key, value in known["dense"].items():
        dense.setdefault(key.split("|")[0], []).append(100 * value)
    tables, lines = [], [
        "| | " + " | ".join(f"{share:.0%} pruned | more than fine-tuning" for share in sparsities) + " |",
        "|---" * (2 * len(sparsities) + 1) + "|",
    ]  # fmt: skip
    for net, its in dense.items():
        table = Table(f"{net}, dense {words(its)}", *(f"{share:.0%}" for share in sparsities))
        lines.append(f"| **{net}**, dense {words(its)} |" + " |" * 2 * len(sparsities))
        for method in methods:
            row = []
            for share in sparsities:
                own, plain = (seeds_of(cells, net, one, share) for one in (method, methods[0]))
                gains = [own[seed] - plain[seed] for seed in own.keys() & plain.keys()]
                row += [words(list(own.values())), "" if method == methods[0] else words(gains, "+")]
            table.add_row(method, *row[::2])
            lines.append(f"| {method} | " + " | ".join(row) + " |")
        tables.append(table)
    if page:
        about = (
            f"Test accuracy, %: mean and standard deviation of {known['seeds']} seeds after {known['epochs']} epochs; "
            "behind it what the same seed gains over fine-tuning, likewise. A test picture is 0.22 %.\n\n"
            f"{verdict(cells, list(dense), methods, sparsities)}"
        )
        write_between("quality", "\n".join(lines) + "\n\n" + about, "benchmarks/distillation.py", page=PAGE)
    return tables


def verdict(cells: dict[Any, float], nets: list[str], methods: list[str], sparsities: list[float]) -> str:
    """How often each method was better than fine-tuning on the same seed, counted."""
    told = []
    for method in methods[1:]:
        gains = []
        for net in nets:
            for share in sparsities:
                own, plain = (seeds_of(cells, net, one, share) for one in (method, methods[0]))
                gains += [own[seed] - plain[seed] for seed in own.keys() & plain.keys()]
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        told.append(f"- {method}: better in {better} of {len(gains)} runs, worse in {worse}; {words(gains, '+')} on "
                    "average")  # fmt: skip
    return "\n".join(told)


def seeds_of(cells: dict[Any, float], net: str, method: str, share: float) -> dict[str, float]:
    """What a method reached, by seed."""
    return {key[3]: value for key, value in cells.items() if key[:3] == (net, method, str(share))}


def words(values: list[float], sign: str = "") -> str:
    """Mean and spread."""
    if not values:
        return "—"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.1f}{spread}"
