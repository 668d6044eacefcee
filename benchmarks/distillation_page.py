"""The table of benchmarks/distillation.py, for a terminal and for docs/distillation.md."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.pruners_page import write_between

__all__ = ["PAGE", "render"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "distillation.md"


def render(
    known: dict[str, Any], methods: list[str], sparsities: list[float], plain: dict[str, str], *, page: bool
) -> list[Table]:
    """A table for each net; with ``page``, the page's table and its verdict are written too.

    Args:
        known: the JSON file.
        methods: the rows; the first one is what the others are compared with.
        sparsities: the columns.
        plain: by method, what it is compared with instead; these are rows too.
        page: whether to write the page.
    """
    base = {method: plain.get(method, methods[0]) for method in methods}
    own_base = {methods[0], *plain.values()}
    cells = {tuple(key.split("|")): 100 * value for key, value in known["cells"].items()}
    dense: dict[str, list[float]] = {}
    for key, value in known["dense"].items():
        dense.setdefault(key.split("|")[0], []).append(100 * value)
    tables, lines = [], [
        "| | " + " | ".join(f"{share:.0%} pruned | more" for share in sparsities) + " |",
        "|---" * (2 * len(sparsities) + 1) + "|",
    ]  # fmt: skip
    for net, its in dense.items():
        table = Table(f"{net}, dense {words(its)}", *(f"{share:.0%}" for share in sparsities))
        lines.append(f"| **{net}**, dense {words(its)} |" + " |" * 2 * len(sparsities))
        for method in methods:
            row = []
            for share in sparsities:
                own = seeds_of(cells, net, method, share)
                more = gains(cells, net, (method, base[method]), share)
                row += [words(list(own.values())), "" if method in own_base else words(more, "+")]
            table.add_row(method, *row[::2])
            lines.append(f"| {method} | " + " | ".join(row) + " |")
        tables.append(table)
    if page:
        about = (
            f"Test accuracy, %: mean and standard deviation of {known['seeds']} seeds after {known['epochs']} epochs; "
            "after it what the same seed gains over fine-tuning (without labels, over that with a tenth of them), "
            "likewise. A test picture is 0.22 %.\n\n"
            f"{verdict(cells, list(dense), {m: base[m] for m in methods if m not in own_base}, sparsities)}"
        )
        write_between("quality", "\n".join(lines) + "\n\n" + about, "benchmarks/distillation.py", page=PAGE)
    return tables


def verdict(cells: dict[Any, float], nets: list[str], base: dict[str, str], sparsities: list[float]) -> str:
    """How often each method was better than what it is compared with, on the same seed."""
    told = []
    for pair in base.items():
        more = [gain for net in nets for share in sparsities for gain in gains(cells, net, pair, share)]
        better, worse = sum(gain > 0 for gain in more), sum(gain < 0 for gain in more)
        told.append(
            f"- {pair[0]}: better than {pair[1]} in {better} of {len(more)} runs, worse in {worse}; {words(more, '+')} "
            "on average"
        )
    return "\n".join(told)


def gains(cells: dict[Any, float], net: str, pair: tuple[str, str], share: float) -> list[float]:
    """What the first of two methods has more than the second, seed by seed."""
    own, plain = (seeds_of(cells, net, method, share) for method in pair)
    return [own[seed] - plain[seed] for seed in sorted(own.keys() & plain.keys())]


def seeds_of(cells: dict[Any, float], net: str, method: str, share: float) -> dict[str, float]:
    """What a method reached, by seed."""
    return {key[3]: value for key, value in cells.items() if key[:3] == (net, method, str(share))}


def words(values: list[float], sign: str = "") -> str:
    """Mean and spread."""
    if not values:
        return "—"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.1f}{spread}"
