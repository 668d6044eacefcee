"""What a report says, as one immutable value: dense against small, with how each number was found.

The value is the report. Tables, charts and the page are drawn from it, and `report.json` is it, word for word; so they
cannot tell different stories.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from torchpare.errors import FileError
from torchpare.files.atomic import atomic_write
from torchpare.report import numbers
from torchpare.report.measure import Measurement

__all__ = ["Amount", "Curve", "Layer", "Proof", "Report", "Row", "latency_row", "read_report", "shares_row"]

Quantity = Literal["share", "count", "bytes", "seconds"]

_SAY = {"share": numbers.share, "count": numbers.count, "bytes": numbers.file_size, "seconds": numbers.duration}


@dataclass(frozen=True)
class Amount:
    """One number, and where it makes sense the interval in which it lies."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One property of the model, before and after."""

    name: str
    quantity: Quantity
    """What is counted: a share of 1, a count of things, bytes, or seconds."""
    dense: Amount
    small: Amount
    note: str
    """How it was found, in a few words."""
    gain: str = "smaller"
    """What a fall is called."""
    loss: str = "larger"
    """What a rise is called."""

    @property
    def factor(self) -> float:
        """Dense over small: above 1 where the small model needs less."""
        return self.dense.value / self.small.value if self.small.value else float("inf")

    @property
    def change(self) -> tuple[str, str]:
        """The change as a figure and a word, such as 4.0 times, "fewer"; or minus 0.22, "points"."""
        if self.quantity == "share":
            return numbers.points(self.small.value - self.dense.value), "points"
        factor = self.factor
        if numbers.ratio(factor) == numbers.ratio(1 / factor if factor else 0):
            return numbers.ratio(1.0), "as much"
        return (numbers.ratio(factor), self.gain) if factor >= 1 else (numbers.ratio(1 / factor), self.loss)

    @property
    def is_gain(self) -> bool:
        """Whether the small model is as good or better: needs no more, or is right as often."""
        return self.small.value >= self.dense.value if self.quantity == "share" else self.factor >= 1

    def say(self, amount: Amount) -> str:
        """One of the two amounts in words: a share as mean and deviation, all else as the value alone."""
        if self.quantity == "share" and amount.high is not None:
            return f"{100 * amount.value:.2f} ± {numbers.share(amount.high - amount.value)}"
        return self.say_value(amount)

    def say_value(self, amount: Amount) -> str:
        """One of the two amounts in words, without its interval."""
        return _SAY[self.quantity](amount.value)

    def say_interval(self, amount: Amount) -> str:
        """The interval of one of the two amounts in words; empty where there is none."""
        if amount.low is None or amount.high is None:
            return ""
        say = _SAY[self.quantity]
        return f"{say(amount.low)} to {say(amount.high)}"


@dataclass(frozen=True)
class Layer:
    """How many output channels a layer had and has."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Curve:
    """Accuracy after each epoch of one run, through training, pruning and fine-tuning."""

    name: str
    dense: tuple[float, ...]
    """Shares of 1, one per epoch before pruning."""
    pruned: float
    """Right after pruning."""
    tuned: tuple[float, ...]
    """One per epoch of fine-tuning with masks."""
    small: float
    """Of the small model."""


@dataclass(frozen=True)
class Proof:
    """A statement about two programs that should compute the same, and how far apart they were at most."""

    statement: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the difference lies within the tolerance."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Report:
    """Dense against small, with the circumstances."""

    title: str
    summary: str
    rows: tuple[Row, ...]
    proofs: tuple[Proof, ...]
    layers: tuple[Layer, ...]
    curves: tuple[Curve, ...]
    headlines: tuple[str, ...]
    """Names of the rows that stand at the top, in large type."""
    measurements: dict[str, dict[str, Measurement]]
    """Every latency in full: by row name, then by contender."""
    settings: dict[str, str]
    """What was asked for."""
    environment: dict[str, str]
    """What it ran on."""
    version: int = 1
    """Of this layout."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON knows it."""
        return asdict(self)

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report for programs to read.

        Raises:
            FileError: the file cannot be written.
        """
        text = TypeAdapter(Report).dump_json(self, indent=2)
        with atomic_write(path) as lent:
            lent.write_bytes(text + b"\n")


def read_report(path: str | os.PathLike[str]) -> Report:
    """Read what :meth:`Report.write_json` wrote.

    Raises:
        FileError: there is no such file, or it is not a report; names what is wrong with it.
    """
    try:
        return TypeAdapter(Report).validate_json(Path(path).read_bytes())
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); give the path of a report.json") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise FileError(
            f"{path}: is not a report ({where}: {first['msg']}); make it anew with Report.write_json"
        ) from error


def shares_row(name: str, dense: Sequence[float], small: Sequence[float], note: str) -> Row:
    """A row of means over several runs, with their standard deviation where there is more than one.

    Args:
        name: of the property.
        dense: one share of 1 per run.
        small: the same runs after compression.
        note: how it was found.
    """
    return Row(name, "share", _mean(dense), _mean(small), note)


def latency_row(name: str, dense: Measurement, small: Measurement) -> Row:
    """A row of median times, with their quartiles."""
    threads = f"{dense.threads} thread{'s' if dense.threads > 1 else ''}"
    note = f"median of {dense.runs}, taking turns, {threads}, {dense.runtime}"
    return Row(name, "seconds", _median(dense), _median(small), note, gain="faster", loss="slower")


def _mean(values: Sequence[float]) -> Amount:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Amount(mean)
    deviation = statistics.stdev(values)
    return Amount(mean, mean - deviation, mean + deviation)


def _median(measurement: Measurement) -> Amount:
    return Amount(measurement.median, measurement.lower_quartile, measurement.upper_quartile)
