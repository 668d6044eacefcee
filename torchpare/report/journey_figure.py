"""One line through a whole run: how good the model was after every epoch and every stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchpare.report import svg

__all__ = ["Leg", "journey"]

_WIDTH, _HEIGHT = 760.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 14.0, 14.0, 46.0
_LEAST = 78.0
"""A stage is as wide as this, so that its name has room beside a training of a hundred epochs."""


@dataclass(frozen=True)
class Leg:
    """One stage: what was measured in it, in order, the last after it."""

    name: str
    values: tuple[float, ...]


def journey(legs: Sequence[Leg], label: str, say: Callable[[float], str]) -> str:
    """The picture.

    Args:
        legs: the stages in order; the first is where the others come from, and its last value a dashed line.
        label: what a screen reader says.
        say: a value in words.
    """
    values = [value for leg in legs for value in leg.values]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    widths = _widths([len(leg.values) for leg in legs], _WIDTH - _LEFT - _RIGHT)
    crowded = min(widths) < _LEAST

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    shapes: list[str] = []
    for at in ticks:
        shapes += [svg.line(_LEFT, y(at), _WIDTH - _RIGHT, y(at), "grid"),
                   svg.text(_LEFT - 8, y(at) + 4, say(at), "tick", "end")]  # fmt: skip
    start = legs[0].values[-1]
    shapes.append(svg.line(_LEFT, y(start), _WIDTH - _RIGHT, y(start), "cut"))
    points: list[tuple[float, float]] = []
    dots: list[str] = []
    x = _LEFT
    for number, leg in enumerate(legs):
        if number:
            shapes.append(svg.line(x, _TOP, x, _HEIGHT - _BOTTOM, "grid"))
        middle, step = x + widths[number] / 2, widths[number] / len(leg.values)
        for place, value in enumerate(leg.values):
            at = (x + step * (place + 0.5), y(value))
            points.append(at)
            dots.append(svg.circle(*at, 3.2 if place == len(leg.values) - 1 else 2.0, "small",
                                   f"{leg.name}: {say(value)}"))  # fmt: skip
        x += widths[number]
        lowered = 13.0 * (number % 2) if crowded else 0.0  # so that neighbours' names have room
        # Of two rows, a name has the room of both halves beside it too; at the ends, only up to the edge.
        room = min(2 * widths[number] if crowded else widths[number], 2 * middle, 2 * (_WIDTH - middle)) - 6
        shapes.append(svg.text(middle, _HEIGHT - _BOTTOM + 18 + lowered, svg.shortened(leg.name, room), "tick",
                               "middle"))  # fmt: skip
    return svg.picture(_WIDTH, _HEIGHT, label, *shapes, svg.path(points, "small-line"), *dots)


def _widths(values: Sequence[int], room: float) -> list[float]:
    """The width of each leg: one that is enough for its name, and what is left in proportion to its epochs."""
    least = min(_LEAST, room / len(values))
    more = [number - 1 for number in values]
    left = room - least * len(values)
    return [least + left * (part / sum(more) if sum(more) else 1 / len(values)) for part in more]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below the lowest value to above the highest, three to seven of them."""
    span = max(high - low, 1e-3 * max(abs(high), abs(low), 1e-9))
    unit = 10 ** math.floor(math.log10(span))
    step = next(unit * part for part in (0.2, 0.25, 0.5, 1.0, 2.0) if span / (unit * part) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
