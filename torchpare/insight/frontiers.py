"""Accuracy against latency of several models, as a value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from torchpare.errors import ConfigError
from torchpare.insight.laid_out import finite, folded
from torchpare.report import Block, Cell, ChartBlock, Column, DetailsBlock, Measurement, RowBlock, TableBlock, numbers
from torchpare.report.frontier_figure import FrontierPoint, frontier, frontier_chart
from torchpare.search.frontier import MixedPrecision

__all__ = ["Frontier"]


@dataclass(frozen=True)
class Frontier:
    """Models as points of time and accuracy.

    Args:
        points: at least one.
        shares: whether accuracies are shares of 1, told as percentages.

    Raises:
        ConfigError: there are no points, or one has a time that is none.
    """

    points: tuple[FrontierPoint, ...]
    shares: bool = True

    def __post_init__(self) -> None:
        if not self.points:
            raise ConfigError("a frontier needs points; give (name, seconds, accuracy) of at least one model")
        for point in self.points:
            known = finite(float(point.seconds)) is not None and finite(float(point.accuracy)) is not None
            if not known or point.seconds <= 0:
                raise ConfigError(
                    f"point {point.name!r} has seconds={point.seconds} and accuracy={point.accuracy}; seconds are "
                    "above 0, and both are finite"
                )

    @classmethod
    def of(cls, points: Iterable[FrontierPoint | tuple[str, float | Measurement, float]]) -> Frontier:
        """Of ``(name, seconds, accuracy)``; a :class:`~torchpare.report.Measurement` as the time brings its quartiles.

        Raises:
            ConfigError: as the constructor.
        """
        found = []
        for point in points:
            if isinstance(point, FrontierPoint):
                found.append(point)
                continue
            name, seconds, accuracy = point
            taken = (
                (seconds.median, accuracy, seconds.lower_quartile, seconds.upper_quartile)
                if isinstance(seconds, Measurement)
                else (seconds, accuracy)
            )
            found.append(FrontierPoint(name, *taken))
        return cls(tuple(found), all(0 <= point.accuracy <= 1 for point in found))

    @classmethod
    def of_search(cls, found: MixedPrecision, dense_seconds: float) -> Frontier:
        """Of the outcome of a search for bits, whose times are shares of the float model's.

        Args:
            found: the outcome.
            dense_seconds: what the float model takes in that runtime.
        """
        return cls.of((f"{point.described} bits", point.latency * dense_seconds, point.score) for point in found.points)

    @property
    def best(self) -> tuple[FrontierPoint, ...]:
        """Those that no other beats, from the fastest to the slowest."""
        return frontier(self.points)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        best = self.best
        return {"points": [{**asdict(point), "best": point in best} for point in self.points]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line a model, the fastest first."""
        table = Table("model", title="accuracy against latency", title_justify="left")
        for head in ("time", "accuracy", ""):
            table.add_column(head, justify="right")
        for point in sorted(self.points, key=lambda point: point.seconds):
            table.add_row(
                point.name, numbers.duration(point.seconds), self._say(point), "best" if point in self.best else ""
            )
        yield table

    def blocks(self) -> tuple[Block, ...]:
        """The chart and the table for the page."""
        best = self.best
        said = "; ".join(
            f"{point.name}: {numbers.duration(point.seconds)}, {self._say(point)}" for point in self.points
        )
        chart = ChartBlock(
            frontier_chart(self.points, said, shares=self.shares),
            "Up and to the left is better; no model beats those on the line.", said, "Accuracy against latency",
        )  # fmt: skip
        columns = (Column("model"), Column("time", numeric=True), Column("accuracy", numeric=True), Column(""))
        rows = [
            (
                point.name,
                numbers.duration(point.seconds),
                self._say(point),
                Cell("best", "good") if point in best else "",
            )
            for point in sorted(self.points, key=lambda point: point.seconds)
        ]
        table = folded(TableBlock(columns, rows), f"All {len(rows)} models")
        return (chart, table) if isinstance(table, DetailsBlock) else (RowBlock((chart, table)),)

    def _say(self, point: FrontierPoint) -> str:
        return numbers.share(point.accuracy) if self.shares else f"{point.accuracy:.4g}"
