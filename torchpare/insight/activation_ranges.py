"""What layers return on data: where the values lie, and which channels say nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import nn

from torchpare.insight.batches import Batches
from torchpare.insight.laid_out import charts, finite, folded
from torchpare.insight.rest import at_rest, device_of, run_once, stand_in
from torchpare.insight.watching import Seen, Watch
from torchpare.report import Block, Cell, Column, TableBlock, TextBlock, numbers
from torchpare.report.layer_figures import Bar, Span, bars, spans

__all__ = ["ActivationRange", "Activations", "Channels", "activations"]

NEARLY_ALL = 99.9


@dataclass(frozen=True)
class ActivationRange:
    """Where the values lie that a layer returned."""

    name: str
    """Of the layer; where it is called more often in a pass, with the number of the call."""
    kind: str
    values: int
    low: float
    high: float
    mean: float
    deviation: float
    low_percentile: float
    """A thousandth of all values lies below; to about a thousandth of the whole range."""
    high_percentile: float
    """A thousandth of all values lies above."""
    zeros: float
    """The share that is exactly zero."""
    outliers: float
    """How many times larger the largest magnitude is than 99.9 % of them: what a grid that covers all wastes."""
    not_finite: int
    """Values that are infinite or not a number; left out of all the above."""


@dataclass(frozen=True)
class Channels:
    """Which channels of what a layer returned say nothing."""

    name: str
    kind: str
    channels: int
    dead: tuple[int, ...]
    """Always zero."""
    constant: tuple[int, ...]
    """Always the same value, other than zero."""
    negative: tuple[int, ...]
    """Never above zero, and not always the same: a ReLU after it would make them dead."""

    @property
    def idle(self) -> int:
        """How many are dead or constant."""
        return len(self.dead) + len(self.constant)


@dataclass(frozen=True)
class Activations:
    """What layers returned, in the order in which they were first called."""

    ranges: tuple[ActivationRange, ...]
    channels: tuple[Channels, ...]
    """Of the layers of which it is known along which axis their channels lie."""
    batches: int
    own_data: bool
    """Whether data were given, or the example input alone was looked at."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it; numbers that are infinite are None."""
        ranges = [{key: finite(value) for key, value in asdict(each).items()} for each in self.ranges]
        channels = [asdict(each) for each in self.channels]
        return {"ranges": ranges, "channels": channels, "batches": self.batches, "own_data": self.own_data}

    @property
    def idle(self) -> tuple[Channels, ...]:
        """Layers with dead or constant channels, those with the largest share of them first."""
        found = [each for each in self.channels if each.idle]
        return tuple(sorted(found, key=lambda each: -each.idle / each.channels))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Layers with channels that say nothing, and the layers with the widest outliers."""
        table = Table("layer", title=f"channels that say nothing, {self._seen()}", title_justify="left")
        for head in ("channels", "dead", "constant", "never above 0"):
            table.add_column(head, justify="right")
        for each in self.idle[:20]:
            table.add_row(each.name, *map(str, (each.channels, len(each.dead), len(each.constant), len(each.negative))))
        yield table
        table = Table("layer", title="the widest outliers", title_justify="left")
        for head in ("min", "max", "zeros", "largest / 99.9 %"):
            table.add_column(head, justify="right")
        for each in self._widest()[:20]:
            table.add_row(each.name, f"{each.low:.4g}", f"{each.high:.4g}", f"{each.zeros:.1%}", f"{each.outliers:.2f}")
        yield table

    def channel_blocks(self) -> tuple[Block, ...]:
        """The chart and the table of channels that say nothing."""
        rows = [
            Bar(each.name, each.idle / each.channels, f"{each.idle} of {each.channels}",
                tip=f"{each.name}: {len(each.dead)} dead, {len(each.constant)} constant of {each.channels}")
            for each in self.idle
        ]  # fmt: skip
        columns = ("layer", "kind", "channels", "dead", "constant", "never above 0", "which are dead or constant")
        table = TableBlock(
            [Column(head, numeric=1 < number < 6) for number, head in enumerate(columns)],
            [(each.name, each.kind, each.channels, _count(each.dead, each), _count(each.constant, each),
              len(each.negative) or None, _listed(each.dead + each.constant))
             for each in self.channels],
            note="Dead: always zero. Constant: always the same other value. Never above 0: a ReLU after it would make "
            f"it dead. {self._seen().capitalize()}; exact, with no tolerance.",
        )  # fmt: skip
        found = charts(
            rows, lambda part: bars(part, _spoken(part), most=1.0, whole=True), "Channels that say nothing",
            "Dead or constant, as a share of the layer's channels.", _spoken,
        )  # fmt: skip
        if not rows and self.channels:
            found = [TextBlock(f"None of {len(self.channels)} layers has a dead or constant channel, {self._seen()}.")]
        return (*found, folded(table, f"All {len(self.channels)} layers")) if self.channels else ()

    def range_blocks(self) -> tuple[Block, ...]:
        """The chart and the table of where values lie."""
        rows = [
            Span(each.name, each.low, each.high, each.low_percentile, each.high_percentile, f"{each.outliers:.2f}",
                 f"{each.name}: {each.low:.4g} to {each.high:.4g}, 99.8 % in {each.low_percentile:.4g} to "
                 f"{each.high_percentile:.4g}")
            for each in self._widest()
        ]  # fmt: skip
        columns = ("layer", "kind", "min", "0.1 %", "mean", "99.9 %", "max", "zeros", "outliers")
        table = TableBlock(
            [Column(head, numeric=number > 1) for number, head in enumerate(columns)],
            [(each.name, each.kind,
              *map(numbers.signed, (each.low, each.low_percentile, each.mean, each.high_percentile, each.high)),
              Cell(f"{each.zeros:.1%}", share=each.zeros),
              Cell(f"{each.outliers:.2f}", "bad" if each.not_finite else "",
                   note=f"{numbers.count(each.not_finite)} not finite" if each.not_finite else ""))
             for each in self.ranges],
            note="Outliers: the largest magnitude over that of 99.9 % of all. Percentiles are told to about a "
            f"thousandth of the range. {self._seen().capitalize()}.",
        )  # fmt: skip
        found = charts(
            rows, lambda part: spans(part, _said(part), key=("99.8 % of values", "all")), "Where values lie",
            "Each layer on its own scale, widest outliers first; the number is the largest over 99.9 %.", _said,
        )  # fmt: skip
        return (*found, folded(table, f"All {len(self.ranges)} layers")) if self.ranges else ()

    def _widest(self) -> list[ActivationRange]:
        return sorted(self.ranges, key=lambda each: -each.outliers)

    def _seen(self) -> str:
        if not self.own_data:
            return "on the example input alone"
        return f"on {self.batches} batch{'es' if self.batches != 1 else ''} of data"


def activations(
    model: nn.Module, example_inputs: Any, data: Iterable[Any] | None = None, *, max_batches: int | None = None
) -> Activations:
    """Look at what each layer returns.

    Batches are gone through one by one; what is kept of a layer is a histogram, and two numbers for each channel.

    Args:
        model: any module; afterwards it is as it was before.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        data: batches; the example input alone if not given. Of a batch, what the example has is taken: labels after
            the inputs are left out.
        max_batches: how many batches to look at; all if not given.

    Raises:
        ConfigError: the data cannot be used.
        CaptureError: the model does not run on a batch.
    """
    batches = Batches(example_inputs, data, max_batches)
    model = stand_in(model)
    watch = Watch(model)
    number = 0
    with at_rest(model):
        try:
            for number, (args, kwargs) in enumerate(batches.on(device_of(model)), start=1):
                watch.start()
                run_once(model, args, kwargs, f"batch {number - 1} of the data" if batches.own else "example_inputs")
        finally:
            watch.remove()
    found = watch.named()
    ranges = tuple(_range(name, seen) for name, seen in found.items() if seen.stream.count or seen.stream.not_finite)
    channels = [_channels(name, seen) for name, seen in found.items()]
    return Activations(ranges, tuple(each for each in channels if each is not None), number, batches.own)


def _range(name: str, seen: Seen) -> ActivationRange:
    kind, stream, _ = seen
    if not stream.count:
        return ActivationRange(name, kind, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, stream.not_finite)
    largest, usual = max(abs(stream.low), abs(stream.high)), stream.magnitude(NEARLY_ALL)
    return ActivationRange(
        name, kind, stream.count, stream.low, stream.high, stream.mean, stream.deviation,
        *stream.percentiles(NEARLY_ALL), stream.zeros / stream.count,
        max(1.0, largest / usual) if usual else 1.0, stream.not_finite,
    )  # fmt: skip


def _channels(name: str, seen: Seen) -> Channels | None:
    kind, _, ends = seen
    if not ends.known or ends.low is None or ends.high is None:
        return None
    same, zero, below = ends.low == ends.high, ends.low == 0, ends.high <= 0
    return Channels(name, kind, len(same), _where(same & zero), _where(same & ~zero), _where(below & ~same))


def _where(chosen: Any) -> tuple[int, ...]:
    return tuple(chosen.nonzero().flatten().tolist())


def _count(which: tuple[int, ...], layer: Channels) -> Cell | None:
    return Cell(str(len(which)), share=len(which) / layer.channels) if which else None


def _listed(which: tuple[int, ...], most: int = 8) -> str:
    """Numbers in order, neighbours as a range: 0 to 3, 7, 9."""
    runs: list[list[int]] = []
    for number in sorted(which):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    said = [str(first) if first == last else f"{first} to {last}" for first, last in runs[:most]]
    left = sum(last - first + 1 for first, last in runs[most:])
    return ", ".join(said) + (f", and {left} more" if left else "")


def _spoken(rows: Sequence[Bar]) -> str:
    return "; ".join(f"{row.name}: {row.words} channels say nothing" for row in rows)


def _said(rows: Sequence[Span]) -> str:
    return "; ".join(row.tip for row in rows)
