"""A heat map of layers by how much each lost: a chart for the page, and a file of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchpare.errors import ConfigError, MissingExtraError
from torchpare.files.atomic import atomic_write
from torchpare.report import svg
from torchpare.report.standalone import standalone

__all__ = ["damage", "heat_map", "write_heat_map"]

Rows = Mapping[str, Mapping[float, float]]

WIDTH = 360.0
_NAMES = 152.0
_PITCH = 18.0


def damage(rows: Rows, dense: float | None = None, *, more_is_better: bool = True) -> dict[str, dict[float, float]]:
    """How much worse each value is than that of the dense model: 0 where it is as good or better.

    Args:
        rows: by layer and share, the value.
        dense: of the model with nothing gone; the best value in ``rows`` if not given.
        more_is_better: whether a larger value is a better one.
    """
    sign = 1.0 if more_is_better else -1.0
    values = [sign * value for row in rows.values() for value in row.values()]
    best = max(values, default=0.0) if dense is None else sign * dense
    return {name: {share: max(0.0, best - sign * value) for share, value in row.items()} for name, row in rows.items()}


def heat_map(
    rows: Rows, label: str, *, dense: float | None = None, more_is_better: bool = True, most: float | None = None
) -> str:
    """Layers from top to bottom, shares from left to right; the stronger the colour, the more the model is hurt.

    Args:
        rows: by layer and share, the value. What was not tried is left empty.
        label: what a screen reader says.
        dense: of the model with nothing gone; the best value in ``rows`` if not given.
        more_is_better: whether a larger value is a better one.
        most: what the full colour stands for; the largest damage if not given.
    """
    hurt = damage(rows, dense, more_is_better=more_is_better)
    shares = sorted({share for row in rows.values() for share in row})
    most = most or max((value for row in hurt.values() for value in row.values()), default=0.0) or 1.0
    cell, top = (WIDTH - _NAMES) / max(1, len(shares)), 18.0
    every = max(1, -(-26 // max(1, int(cell))))  # so that the words above the columns do not meet
    shapes = []
    for number, share in list(enumerate(shares))[::every]:
        words = f"{100 * share:g} %" if cell > 40 else f"{100 * share:g}"
        shapes.append(svg.text(_NAMES + (number + 0.5) * cell, 11, words, "tick", "middle"))
    for number, (name, row) in enumerate(rows.items()):
        y = top + number * _PITCH
        shapes.append(svg.text(_NAMES - 8, y + 12, svg.shortened(name, _NAMES - 8), "tick", "end", tip=name))
        for place, share in enumerate(shares):
            box = (_NAMES + place * cell + 0.5, y + 0.5, cell - 1, _PITCH - 1)
            if share not in row:
                shapes.append(svg.rect(*box, "untried", radius=2, tip=f"{name} at {share:.0%}: not tried"))
                continue
            tip = f"{name} at {share:.0%}: {row[share]:.4g}, {hurt[name][share]:.3g} worse"
            strength = min(1.0, hurt[name][share] / most)
            shapes += [svg.rect(*box, "well", radius=2), svg.rect(*box, "heat", radius=2, opacity=strength, tip=tip)]
    bottom = top + len(rows) * _PITCH
    return svg.picture(WIDTH, bottom + 24, label, *shapes, *_scale(bottom + 8, most))


def write_heat_map(
    rows: Rows, path: str | os.PathLike[str], *, dense: float | None = None, more_is_better: bool = True
) -> None:
    """Write the heat map as a file: ``.svg``, which follows light and dark, or ``.png``.

    Args:
        rows: by layer and share, the value.
        path: of the file; its ending says the format.
        dense: of the model with nothing gone; the best value in ``rows`` if not given.
        more_is_better: whether a larger value is a better one.

    Raises:
        ConfigError: there is nothing to draw, or the ending is another one.
        MissingExtraError: for ``.png``, matplotlib is not installed.
        FileError: the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".svg", ".png"):
        raise ConfigError(f"a heat map is written as .svg or .png, not as {os.fspath(path)!r}; change the ending")
    if not any(rows.values()):
        raise ConfigError("there is nothing to draw: no layer was analysed yet; call analysis() first")
    if ending == ".svg":
        picture = heat_map(rows, "What is lost, by layer and sparsity", dense=dense, more_is_better=more_is_better)
        with atomic_write(path) as lent:
            lent.write_text(standalone(picture), encoding="utf-8")
        return
    _write_png(rows, damage(rows, dense, more_is_better=more_is_better), path)


def _write_png(rows: Rows, hurt: Rows, path: str | os.PathLike[str]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib is not installed: pip install 'torchpare[report]'") from error
    shares = sorted({share for row in rows.values() for share in row})
    table = [[row.get(share, float("nan")) for share in shares] for row in hurt.values()]
    figure = Figure(figsize=(3 + 0.5 * len(shares), 1.2 + 0.26 * len(rows)), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(table, cmap="Reds", vmin=0, aspect="auto")
    axis.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares], fontsize=8)
    axis.set_yticks(range(len(rows)), [svg.shortened(name, 260).replace("$", r"\$") for name in rows], fontsize=8)
    axis.set_xlabel("sparsity of the layer alone")
    figure.colorbar(drawn, ax=axis, label="worse by")
    with atomic_write(path) as lent:
        figure.savefig(lent, format="png", dpi=150)


def _scale(y: float, most: float, steps: int = 5) -> Sequence[str]:
    """A ramp from nothing lost to the most."""
    words = f"{most:.3g} worse"
    right = WIDTH - svg.width_of(words) - 6
    shapes = [
        svg.text(right - steps * 14 - 6, y + 10, "as good", "tick", "end"),
        svg.text(right + 6, y + 10, words, "tick"),
    ]
    for step in range(steps):
        box = (right - (steps - step) * 14, y + 1, 13, 11)
        shapes += [svg.rect(*box, "well", radius=2), svg.rect(*box, "heat", radius=2, opacity=step / (steps - 1))]
    return shapes
