"""Accuracy against latency: every model a point, and the line of those that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchpare.report import numbers, svg

__all__ = ["FrontierPoint", "frontier", "frontier_chart"]

WIDTH, HEIGHT = 360.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 12.0, 38.0
_LINE = 13.0


@dataclass(frozen=True)
class FrontierPoint:
    """A model.

    Args:
        name: what it is called.
        seconds: how long it takes.
        accuracy: what it is worth; more is better.
        low: the lower quartile of ``seconds``, where it is known.
        high: the upper one.
    """

    name: str
    seconds: float
    accuracy: float
    low: float | None = None
    high: float | None = None


def frontier(points: Sequence[FrontierPoint]) -> tuple[FrontierPoint, ...]:
    """Those that no other beats: none is both at least as fast and at least as accurate, and better in one of the two.

    From the fastest to the slowest; of equals, the first one given.
    """
    found: list[FrontierPoint] = []
    for point in sorted(points, key=lambda point: (point.seconds, -point.accuracy)):
        if not found or point.accuracy > found[-1].accuracy:
            found.append(point)
    return tuple(found)


def frontier_chart(points: Sequence[FrontierPoint], label: str, *, shares: bool = True) -> str:
    """Time from left to right, accuracy from bottom to top; the frontier in the accent, the others grey.

    Args:
        points: at least one.
        label: what a screen reader says.
        shares: whether accuracies are shares of 1, told as percentages.
    """
    best = frontier(points)
    ends = [end for p in points for end in (p.seconds, p.low, p.high) if end is not None]
    x_low, x_high = _padded(min(ends), max(ends))
    y_low, y_high = _padded(min(p.accuracy for p in points), max(p.accuracy for p in points))
    x_low = max(0.0, x_low)

    def x(seconds: float) -> float:
        return _LEFT + (seconds - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

    def y(accuracy: float) -> float:
        return _TOP + (y_high - accuracy) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)

    shapes = []
    for level in svg.ticks(y_low, y_high):
        said = f"{100 * level:.6g} %" if shares else f"{level:.6g}"
        shapes += [svg.line(_LEFT, y(level), WIDTH - _RIGHT, y(level), "grid"),
                   svg.text(_LEFT - 6, y(level) + 4, said, "tick", "end")]  # fmt: skip
    for moment in svg.ticks(x_low, x_high):
        shapes.append(svg.text(x(moment), HEIGHT - 20, _time(moment), "tick", "middle"))
    shapes.append(svg.text(WIDTH - _RIGHT, HEIGHT - 4, "time of one run", "tick", "end"))
    shapes.append(svg.path([(x(p.seconds), y(p.accuracy)) for p in best], "small-line"))
    placed = [(x(p.seconds) - 5, y(p.accuracy) - 5, x(p.seconds) + 5, y(p.accuracy) + 5) for p in points]
    for point in sorted(points, key=lambda point: point not in best):
        at, on = (x(point.seconds), y(point.accuracy)), point in best
        said = f"{point.accuracy:.2%}" if shares else f"{point.accuracy:.4g}"
        tip = f"{point.name}: {numbers.duration(point.seconds)}, {said}"
        if point.low is not None and point.high is not None:
            shapes.append(svg.line(x(point.low), at[1], x(point.high), at[1], "whisker"))
        shapes.append(svg.circle(*at, 4.5, "accent" if on else "dense", tip))
        shapes += _labelled(point.name, at, placed, tip, best=on)
    return svg.picture(WIDTH, HEIGHT, label, *shapes)


def _time(seconds: float) -> str:
    """A round time, without decimals that say nothing."""
    figure, _, unit = numbers.duration(seconds).partition(" ")
    return f"{float(figure):g} {unit}" if "min" not in unit else numbers.duration(seconds)


def _labelled(
    name: str, at: tuple[float, float], placed: list[tuple[float, float, float, float]], tip: str, *, best: bool
) -> list[str]:
    """The name beside its point, where no other name or point is; nothing where there is no room, the tip says it.

    Up and to the left of the best there is nothing: their names go there first.
    """
    words = svg.shortened(name, 150)
    wide = svg.width_of(words)
    above = [(at[0] - 6 - wide, at[1] - 5), (at[0] - wide / 2, at[1] - 9)]
    around = [
        (at[0] + 8, at[1] + 4), (at[0] - 8 - wide, at[1] + 4), (at[0] + 7, at[1] + 15), (at[0] - wide / 2, at[1] + 17),
        (at[0] + 8, at[1] - 8), (at[0] - 8 - wide, at[1] + 16),
    ]  # fmt: skip
    for left, base in above + around if best else around + above:
        box = (left, base - _LINE + 3, left + wide, base + 3)
        inside = box[0] >= _LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - _BOTTOM + 4
        if inside and not any(_meet(box, other) for other in placed):
            placed.append(box)
            return [svg.text(left, base, words, "tick small-ink" if best else "tick", tip=tip)]
    return []


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.14 or abs(high) * 0.05 or 0.5
    return low - margin, high + margin
