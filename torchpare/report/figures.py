"""The charts of a report, each a function from values to an inline picture.

They are drawn 360 units wide, which is about a phone, so that their words stay readable there; a wide screen lays two
side by side. Grey is the dense model, the accent is the small one, everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchpare.report import numbers, svg
from torchpare.report.comparison import Curve, Layer, Row

__all__ = ["channel_bars", "curves", "paired_bars", "slopes"]

WIDTH = 360.0
_BAR = 12.0
_LONGEST = 0.74  # of the width; the rest is for the words behind the bar


def paired_bars(rows: Sequence[Row], label: str) -> str:
    """For each row the dense amount and the small one, on a scale of their own; whiskers show the interval."""
    shapes, y = [], 4.0
    for row in rows:
        change = " ".join(row.change)
        name = svg.shortened(row.name, WIDTH - svg.width_of(change) - 16)
        tone = "gain" if row.is_gain else "loss"
        shapes += [svg.text(0, y + 11, name, "name"), svg.text(WIDTH, y + 11, change, tone, "end")]
        y += 19
        largest = max(row.dense.high or 0.0, row.dense.value, row.small.high or 0.0, row.small.value) or 1.0
        for css, amount in (("dense", row.dense), ("small", row.small)):
            length = _LONGEST * WIDTH * amount.value / largest
            interval = row.say_interval(amount)
            tip = f"{row.name}, {css}: {row.say(amount)}" + (f"; quartiles {interval}" if interval else "")
            shapes.append(svg.rect(0, y, length, _BAR, css, radius=2, tip=tip))
            end = length
            if amount.low is not None and amount.high is not None:
                low, high = (_LONGEST * WIDTH * edge / largest for edge in (amount.low, amount.high))
                shapes += _whisker(low, high, y + _BAR / 2)
                end = max(length, high)
            shapes.append(svg.text(end + 8, y + 10, row.say(amount), f"value {css}-ink"))
            y += _BAR + 4
        y += 15
    return svg.picture(WIDTH, max(1.0, y - 15), label, *shapes)


def curves(runs: Sequence[Curve], label: str) -> str:
    """Accuracy by epoch: training, the fall when half is taken away, and the way back."""
    height, left, right, top, bottom = 214.0, 40.0, 8.0, 20.0, 28.0
    epochs = max(len(run.dense) + len(run.tuned) for run in runs)
    step = (WIDTH - left - right) / max(1, epochs)

    def x(epoch: float) -> float:
        return left + epoch * step

    def y(share: float) -> float:
        return top + (1 - share) * (height - top - bottom)

    shapes = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        shapes += [svg.line(left, y(share), WIDTH - right, y(share), "grid"),
                   svg.text(left - 6, y(share) + 4, f"{share:.0%}", "tick", "end")]  # fmt: skip
    cut = max(len(run.dense) for run in runs)
    shapes += [svg.line(x(cut), top - 6, x(cut), height - bottom, "cut"),
               svg.text(x(cut), top - 9, "pruned", "tick", "middle")]  # fmt: skip
    for run in runs:
        before = [(x(i + 1), y(share)) for i, share in enumerate(run.dense)]
        after = [(x(len(run.dense) + i), y(share)) for i, share in enumerate((run.pruned, *run.tuned))]
        fall = [before[-1], after[0]] if before else []
        shapes += [svg.path(before, "dense-line", f"{run.name}, dense"), svg.path(fall, "fall"),
                   svg.path(after, "small-line", f"{run.name}, pruned and fine-tuned")]  # fmt: skip
    shapes += [svg.text(x(cut / 2), height - 8, "training", "tick", "middle"),
               svg.text(x((cut + epochs) / 2), height - 8, "fine-tuning", "tick", "middle")]  # fmt: skip
    return svg.picture(WIDTH, height, label, *shapes)


def slopes(runs: Sequence[Curve], label: str) -> str:
    """Accuracy of each run, dense on the left and small on the right, on a scale that shows small differences."""
    height, left, right, top, bottom = 214.0, 122.0, 74.0, 20.0, 28.0
    ends = [share for run in runs for share in (run.dense[-1], run.small)]
    low, high = min(ends), max(ends)
    margin = max(0.0025, (high - low) * 0.25)
    low, high = low - margin, min(1.0, high + margin)

    def y(share: float) -> float:
        return top + (high - share) / (high - low) * (height - top - bottom)

    start, end = left, WIDTH - right
    shapes = [
        svg.line(start, top - 6, start, height - bottom, "grid"),
        svg.line(end, top - 6, end, height - bottom, "grid"),
    ]
    for run in runs:
        words = f"{run.name}: {numbers.share(run.dense[-1])} dense, {numbers.share(run.small)} small"
        shapes += [svg.path([(start, y(run.dense[-1])), (end, y(run.small))], "slope", words),
                   svg.circle(start, y(run.dense[-1]), 4.5, "dense", words),
                   svg.circle(end, y(run.small), 4.5, "small", words)]  # fmt: skip
    before = _spread_out([(y(run.dense[-1]), f"{run.name} · {numbers.share(run.dense[-1])}") for run in runs])
    after = _spread_out([(y(run.small), f"{numbers.share(run.small)}") for run in runs])
    shapes += [svg.text(start - 11, at + 4, words, "tick", "end") for at, words in before]
    shapes += [svg.text(end + 11, at + 4, words, "tick small-ink") for at, words in after]
    shapes += [
        svg.text(start, height - 8, "dense", "tick", "middle"),
        svg.text(end, height - 8, "small", "tick", "middle"),
    ]
    return svg.picture(WIDTH, height, label, *shapes)


def channel_bars(layers: Sequence[Layer], label: str, widest: int | None = None) -> str:
    """How many output channels each layer had, and in the accent how many it has.

    Args:
        layers: in the order of the model.
        label: what a screen reader says.
        widest: what the whole width stands for; the widest of ``layers`` if not given.
    """
    pitch, left = 17.0, 128.0
    room = WIDTH - left - 74
    widest = widest or max(layer.before for layer in layers)
    shapes, y = [], 2.0
    for layer in layers:
        tip = f"{layer.name}: {layer.after} of {layer.before} channels"
        shapes += [
            svg.text(left - 8, y + 9.5, svg.shortened(layer.name, left - 8), "tick", "end"),
            svg.rect(left, y, room * layer.before / widest, 11, "ghost", radius=2, tip=tip),
            svg.rect(left, y, room * layer.after / widest, 11, "small", radius=2, tip=tip),
            svg.text(left + room * layer.before / widest + 7, y + 9.5, f"{layer.before} → {layer.after}", "tick"),
        ]
        y += pitch
    return svg.picture(WIDTH, y, label, *shapes)


def _whisker(low: float, high: float, middle: float) -> list[str]:
    return [svg.line(low, middle, high, middle, "whisker"),
            svg.line(low, middle - 3, low, middle + 3, "whisker"),
            svg.line(high, middle - 3, high, middle + 3, "whisker")]  # fmt: skip


def _spread_out(labels: list[tuple[float, str]], least: float = 14.0) -> list[tuple[float, str]]:
    """The same labels from top to bottom, moved apart where they would lie on each other."""
    placed: list[tuple[float, str]] = []
    for at, words in sorted(labels):
        placed.append((max(at, placed[-1][0] + least) if placed else at, words))
    return placed
