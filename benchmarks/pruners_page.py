"""The tables and the picture of docs/pruners.md, from what benchmarks/pruners.py measured."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.pruners_methods import BY_HAND, FINE, METHODS
from torchpare.files.atomic import atomic_write

__all__ = ["PAGE", "render", "write_between"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "pruners.md"


def cells_of(known: dict[str, Any]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """By method, net and sparsity, what each seed gave."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for key, cell in known["cells"].items():
        net, method, sparsity, _ = key.split("|")
        found.setdefault((method, net, sparsity), []).append(cell)
    return found


def words(cells: list[dict[str, Any]]) -> str:
    """Mean and standard deviation of the accuracy in percent; why there is none."""
    values = [100 * cell["accuracy"] for cell in cells if "accuracy" in cell]
    if not values:
        return "—"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {spread:.1f}"


def render(known: dict[str, Any], *, page: bool) -> Table:
    """The table for a terminal; with ``page``, the page's table and picture are written too."""
    cells = cells_of(known)
    nets = [net for net in ("LeNet", "VGG", "ResNet-20") if any(key[1] == net for key in cells)]
    columns = [(net, sparsity) for net in nets for sparsity in ("0.5", "0.8")]
    dense = {net: [{"accuracy": a} for key, a in known["dense"].items() if key.split("|")[0] == net] for net in nets}
    head = ["", *(f"{net}, {float(s):.0%}" for net, s in columns), "left at 80 %"]
    table = Table(*head, title="Test accuracy in percent, after fine-tuning")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    rows = [("dense", [words(dense[net]) for net, _ in columns], "")]
    for method in METHODS:
        own = [cells.get((method, net, sparsity), []) for net, sparsity in columns]
        if not any(own):
            continue
        left = [
            cell["left"]
            for (_, s), group in zip(columns, own, strict=True)
            if s == "0.8"
            for cell in group
            if "left" in cell
        ]
        name = f"{method} (weights)" if method in FINE and "weights" not in method else method
        rows.append((name, [words(group) for group in own], f"{statistics.fmean(left):.0%}" if left else ""))
    for name, values, left in rows:
        table.add_row(name, *values, left)
        lines.append("| " + " | ".join([name, *values, left]) + " |")
    about = (
        f"Mean and standard deviation of {known['seeds']} seeds, {known['epochs']} epochs for every method, its own "
        "included; the last column is the share of parameters left, of single weights those that are not zero."
    )
    about += " " + _thinnest(cells)
    if page:
        write_between("quality", "\n".join([*lines, "", about]), "benchmarks/pruners.py")
        draw(cells, dense, nets)
    return table


def _thinnest(cells: dict[tuple[str, str, str], list[dict[str, Any]]]) -> str:
    """How narrow nets get that lose channels by one threshold for all layers, beside an equal share for each."""
    narrow: dict[tuple[str, str], str] = {}
    for method in ("SlimPruner", "L1FilterPruner"):
        for net in ("VGG", "ResNet-20"):
            seeds = [cell["thinnest"] for cell in cells.get((method, net, "0.8"), []) if "thinnest" in cell]
            narrow[method, net] = ", ".join(map(str, seeds))
    return (
        "At 80 % the thinnest convolution that SlimPruner leaves has "
        f"{narrow['SlimPruner', 'VGG']} channels in the VGGs, and {narrow['SlimPruner', 'ResNet-20']} in the ResNets; "
        f"of L1FilterPruner {narrow['L1FilterPruner', 'VGG']} and {narrow['L1FilterPruner', 'ResNet-20']}."
    )


def write_between(mark: str, text: str, by: str, page: Path = PAGE) -> None:
    """Put text between the page's markers of a name, printed by a script."""
    known = page.read_text(encoding="utf-8")
    start, end = f"<!-- {mark}: printed by {by} -->", f"<!-- end of {mark} -->"
    if start not in known:
        raise SystemExit(f"{page.name} has no place for {mark!r}: it needs the lines {start} and {end}")
    before, rest = known.split(start)
    with atomic_write(page) as lent:
        lent.write_text(f"{before}{start}\n\n{text}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")


def draw(cells: dict[Any, Any], dense: dict[str, Any], nets: list[str]) -> None:
    """A panel for each net: what each method reaches at 80 percent, best above."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "torchpare"  # equal figures give an equal file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(nets), figsize=(5.2 * len(nets), 6.2), squeeze=False)
    for axis, net in zip(axes[0], nets, strict=True):
        rows = []
        for (method, its_net, sparsity), group in cells.items():
            values = [100 * cell["accuracy"] for cell in group if "accuracy" in cell]
            if its_net == net and sparsity == "0.8" and values:
                rows.append((statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, method))
        rows.sort()
        for at, (mean, spread, method) in enumerate(rows):
            rival = method in BY_HAND or method.startswith(("torch prune", "Torch-Pruning"))
            colour = "#b45309" if rival else "#6b7280" if method in FINE else "#1d4ed8"
            axis.errorbar(mean, at, xerr=spread, fmt="o", color=colour, capsize=2)
        axis.set_yticks(range(len(rows)), [method for *_, method in rows], fontsize=8)
        axis.axvline(100 * statistics.fmean(cell["accuracy"] for cell in dense[net]), color="#9ca3af", linestyle=":")
        axis.set_title(f"{net}, 80 % pruned")
        axis.set_xlabel("test accuracy, %")
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    path = PAGE.with_suffix("") / "quality.svg"
    with atomic_write(path) as lent:
        figure.savefig(lent, format="svg", metadata={"Date": None})
    plt.close(figure)
