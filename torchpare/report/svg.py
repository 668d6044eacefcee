"""Scalable pictures as text: a few shapes, escaped and rounded, that take their colours from the page around them."""

from __future__ import annotations

import math
import unicodedata
from html import escape

from torchpare.report.template import printable

__all__ = ["circle", "diamond", "line", "path", "picture", "rect", "shortened", "text", "ticks", "width_of"]

_EM = 0.62
"""The width of a letter as a share of its size: that of a wide sans serif, so that words that fit, fit everywhere."""

_LEAST = 4
"""No word is cut to fewer letters, the ellipsis counted."""


def picture(width: float, height: float, label: str, *shapes: str) -> str:
    """An inline `svg` element as wide as its place allows.

    Args:
        width: of the drawing's own coordinates.
        height: likewise; the proportions are kept.
        label: what a screen reader says.
        shapes: what the other functions return.
    """
    body = "".join(shapes)
    return (
        f'<svg viewBox="0 0 {_number(width)} {_number(height)}" role="img" aria-label="{_escaped(label)}">{body}</svg>'
    )


def rect(
    x: float, y: float, width: float, height: float, css: str, *, radius: float = 0, opacity: float = 1, tip: str = ""
) -> str:
    """A rectangle of the CSS class ``css``; ``tip`` shows when the pointer rests on it."""
    sizes: dict[str, float | str] = {"x": x, "y": y, "width": max(0.0, width), "height": height, "rx": radius}
    return _element("rect", sizes if opacity == 1 else {**sizes, "fill-opacity": opacity}, css, tip)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return _element("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2}, css)


def path(points: list[tuple[float, float]], css: str, tip: str = "") -> str:
    """A line through points."""
    steps = " ".join(f"{'L' if i else 'M'}{_number(x)} {_number(y)}" for i, (x, y) in enumerate(points))
    return _element("path", {"d": steps}, css, tip)


def circle(x: float, y: float, radius: float, css: str, tip: str = "") -> str:
    """A dot."""
    return _element("circle", {"cx": x, "cy": y, "r": radius}, css, tip)


def diamond(x: float, y: float, radius: float, css: str, tip: str = "") -> str:
    """A square on its corner."""
    corners = ((x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y))
    return _element("polygon", {"points": " ".join(f"{_number(a)},{_number(b)}" for a, b in corners)}, css, tip)


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start", tip: str = "") -> str:
    """Words on one line; ``y`` is their base line, ``anchor`` is ``start``, ``middle`` or ``end``."""
    attributes = f'x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}" class="{css}"'
    title = f"<title>{_escaped(tip)}</title>" if tip else ""
    return f"<text {attributes}>{title}{_escaped(words)}</text>"


def width_of(words: str, size: float = 12) -> float:
    """About how wide a line is at most, in the drawing's coordinates; a wide letter counts twice."""
    return _EM * size * sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in words)


def shortened(name: str, room: float, size: float = 12) -> str:
    """A layer's name, as much of it as tells it from its neighbours and has room.

    Layers differ in their last parts and in the numbers of their blocks, so the front goes first; where a number would
    go with it, the longest words between the dots are cut instead.
    """

    def fits(words: str) -> bool:
        return width_of(words, size) <= room

    name = " ".join(name.split())
    if fits(name):
        return name
    cut = name
    while cut and not fits("…" + cut):
        cut = cut[1:]
    parts = name.split(".")
    numbered = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    if numbered is None or len(name) - len(cut) <= len(".".join(parts[:numbered])) + 1:
        return "…" + cut
    kept = parts[numbered:]
    while not fits("…" + ".".join(kept)) and max(map(len, kept)) > _LEAST:
        longest = max(range(len(kept)), key=lambda at: len(kept[at]))
        kept[longest] = kept[longest].removesuffix("…")[:-1] + "…"
    words = "…" + ".".join(kept)
    return words if fits(words) else "…" + cut


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values from one end to the other, as many as ``most``."""
    rough = (high - low) / most or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * unit for factor in (1, 2, 2.5, 5) if factor * unit >= rough * (1 - 1e-9)), 10 * unit)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _element(tag: str, attributes: dict[str, float | str], css: str, tip: str = "") -> str:
    listed = " ".join(f'{k}="{v if isinstance(v, str) else _number(v)}"' for k, v in attributes.items())
    title = f"<title>{_escaped(tip)}</title>" if tip else ""
    return f'<{tag} {listed} class="{css}">{title}</{tag}>'


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _escaped(words: str) -> str:
    return escape(printable(words))
