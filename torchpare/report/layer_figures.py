"""Charts of one line a layer: bars, spans and dots, with the layer's name in front.

Drawn 360 units wide like the others. What is longer than a glance is for a table: give the layers that matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchpare.report import svg

__all__ = ["Bar", "Dots", "Span", "bars", "dots", "skyline", "spans"]

WIDTH = 360.0
_NAMES = 152.0
_PITCH = 22.0


@dataclass(frozen=True)
class Bar:
    """A layer and two amounts of it, such as its share of the arithmetic and of the time."""

    name: str
    value: float
    """0 or more; the bar in the accent."""
    words: str
    """What stands behind the bars."""
    beside: float | None = None
    """The grey bar above it, on the same scale; none where it is None."""
    tip: str = ""


@dataclass(frozen=True)
class Span:
    """A layer and where its values lie."""

    name: str
    low: float
    high: float
    """All values."""
    inner_low: float
    inner_high: float
    """Nearly all values."""
    words: str
    tip: str = ""


@dataclass(frozen=True)
class Dots:
    """A layer and several values of it on one scale, by the name of each kind; None where it has none."""

    name: str
    values: Sequence[float | None]
    tip: str = ""


def bars(
    rows: Sequence[Bar],
    label: str,
    *,
    key: tuple[str, str] | None = None,
    most: float | None = None,
    whole: bool = False,
) -> str:
    """Bars of layers.

    Args:
        rows: from top to bottom.
        label: what a screen reader says.
        key: what the accent and the grey stand for.
        most: what the whole width stands for; the largest amount if not given.
        whole: draw the whole width behind each bar, where it stands for all there is.
    """
    room = WIDTH - _NAMES - max((svg.width_of(row.words) for row in rows), default=0.0) - 8
    most = most or max((max(row.value, row.beside or 0.0) for row in rows), default=0.0) or 1.0
    top = 24.0 if key else 2.0
    shapes = _key((("accent", key[0]), ("dense", key[1]))) if key else []
    for number, row in enumerate(rows):
        y = top + number * _PITCH
        length, other = room * row.value / most, room * (row.beside or 0.0) / most
        shapes.append(_name(row.name, y + 12, row.tip))
        if whole:
            shapes.append(svg.rect(_NAMES, y + 2, room, 12, "ghost", radius=2, tip=row.tip))
        if row.beside is None:
            shapes.append(svg.rect(_NAMES, y + 2, length, 12, "accent", radius=2, tip=row.tip))
        else:
            shapes += [svg.rect(_NAMES, y + 1, other, 6, "dense", radius=1.5, tip=row.tip),
                       svg.rect(_NAMES, y + 8, length, 7, "accent", radius=1.5, tip=row.tip)]  # fmt: skip
        shapes.append(svg.text(_NAMES + (room if whole else max(length, other)) + 6, y + 12, row.words, "tick"))
    return svg.picture(WIDTH, top + len(rows) * _PITCH, label, *shapes)


def spans(rows: Sequence[Span], label: str, *, key: tuple[str, str]) -> str:
    """Where the values of layers lie, each layer on a scale of its own: zero in the middle, its largest at the edge.

    Args:
        rows: from top to bottom.
        label: what a screen reader says.
        key: what the thick part and the thin part stand for.
    """
    right = max((svg.width_of(row.words) for row in rows), default=0.0) + 8
    half = (WIDTH - _NAMES - right) / 2
    middle, top = _NAMES + half, 24.0
    shapes = _key((("accent", key[0]), ("whisker-key", key[1])))
    shapes.append(svg.line(middle, top, middle, top + len(rows) * _PITCH, "grid"))
    for number, row in enumerate(rows):
        y = top + number * _PITCH + 8
        scale = half / (max(abs(row.low), abs(row.high)) or 1.0)
        at = [middle + scale * value for value in (row.low, row.inner_low, row.inner_high, row.high)]
        shapes += [
            _name(row.name, y + 4, row.tip),
            svg.line(at[0], y, at[3], y, "whisker"),
            svg.line(at[0], y - 3, at[0], y + 3, "whisker"),
            svg.line(at[3], y - 3, at[3], y + 3, "whisker"),
            svg.rect(at[1], y - 5, max(1.5, at[2] - at[1]), 10, "accent", radius=2, tip=row.tip),
            svg.text(WIDTH, y + 4, row.words, "tick", "end"),
        ]
    return svg.picture(WIDTH, top + len(rows) * _PITCH, label, *shapes)


def dots(rows: Sequence[Dots], label: str, *, key: Sequence[str], low: float, high: float, unit: str) -> str:
    """Several values of each layer on one scale: a full dot, a ring and a grey diamond, as far as there are kinds.

    Args:
        rows: from top to bottom.
        label: what a screen reader says.
        key: what each kind is called.
        low: the left end of the scale.
        high: the right end.
        unit: of the scale.
    """
    left, right, top = _NAMES + 6, WIDTH - 12, 24.0
    kinds = (("accent dot", svg.circle), ("ring", svg.circle), ("soft-fill", svg.diamond))[: len(key)]
    bottom = top + len(rows) * _PITCH

    def x(value: float) -> float:
        return left + (right - left) * (min(max(value, low), high) - low) / ((high - low) or 1.0)

    shapes = _key(tuple((css, words) for (css, _), words in zip(kinds, key, strict=True)))
    for tick in svg.ticks(low, high):
        shapes += [svg.line(x(tick), top, x(tick), bottom, "grid"),
                   svg.text(x(tick), bottom + 14, f"{tick:g}", "tick", "middle")]  # fmt: skip
    shapes.append(svg.text(_NAMES - 8, bottom + 14, unit, "tick", "end"))
    for number, row in enumerate(rows):
        y = top + number * _PITCH + 10
        known = [value for value in row.values if value is not None]
        shapes.append(_name(row.name, y + 4, row.tip))
        if known:
            shapes.append(svg.line(x(min(known)), y, x(max(known)), y, "edge"))
        for (css, draw), value in zip(reversed(kinds), reversed(row.values), strict=True):
            if value is not None:
                shapes.append(draw(x(value), y, 4.5 if css == "soft-fill" else 4, css, row.tip))
    return svg.picture(WIDTH, bottom + 20, label, *shapes)


def skyline(
    values: Sequence[float],
    tips: Sequence[str],
    label: str,
    *,
    words: tuple[str, str, str] = ("first layer", "", "last layer"),
    css: str = "accent",
) -> str:
    """One thin bar for each of many layers, in the order of the model, without their names.

    Args:
        values: 0 or more, one a layer.
        tips: what shows when the pointer rests on a bar, one a layer.
        label: what a screen reader says.
        words: below the left end, the middle and the right end.
        css: the class of the bars.
    """
    height, bottom = 120.0, 100.0
    pitch, most = WIDTH / max(1, len(values)), max(values, default=0.0) or 1.0
    gap = min(2.0, pitch * 0.25)
    shapes = [svg.line(0, bottom, WIDTH, bottom, "grid")]
    for number, (value, tip) in enumerate(zip(values, tips, strict=True)):
        tall = (bottom - 4) * value / most
        shapes.append(svg.rect(number * pitch + gap / 2, bottom - tall, pitch - gap, tall, css, tip=tip))
    shapes += [svg.text(0, height - 4, words[0], "tick"), svg.text(WIDTH / 2, height - 4, words[1], "tick", "middle"),
               svg.text(WIDTH, height - 4, words[2], "tick", "end")]  # fmt: skip
    return svg.picture(WIDTH, height, label, *shapes)


def _name(name: str, y: float, tip: str) -> str:
    return svg.text(_NAMES - 8, y, svg.shortened(name, _NAMES - 8), "tick", "end", tip=tip or name)


def _key(entries: Sequence[tuple[str, str]]) -> list[str]:
    """A line that says what the marks stand for."""
    shapes, x = [], 0.0
    for css, words in entries:
        if css in ("ring", "accent dot"):
            mark = svg.circle(x + 5, 7, 4, css)
        elif css == "soft-fill":
            mark = svg.diamond(x + 5, 7, 4.5, css)
        elif css == "whisker-key":
            mark = svg.line(x, 7, x + 11, 7, "whisker")
        else:
            mark = svg.rect(x, 2, 10, 10, css, radius=2)
        shapes += [mark, svg.text(x + 16, 11, words, "tick")]
        x += 16 + svg.width_of(words) + 12
    return shapes
