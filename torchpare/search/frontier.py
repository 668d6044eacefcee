"""What a search for bits has found: assignments with their score and their time, the fastest of them, and a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from torchpare.errors import MissingExtraError
from torchpare.files.atomic import atomic_write

__all__ = ["MixedPrecision", "Point"]

_FLOAT = 32


@dataclass(frozen=True)
class Point:
    """An assignment that was scored and timed."""

    bits: dict[str, int]
    """By layer; 32 is float."""

    score: float

    latency: float
    """Of one run, as a share of the float model's in the same runtime."""

    enough: bool
    """Whether the score is above the floor."""

    @property
    def described(self) -> str:
        """How many layers have how many bits: "19 of 8, 2 of 32"."""
        counts: dict[int, int] = {}
        for bits in sorted(self.bits.values()):
            counts[bits] = counts.get(bits, 0) + 1
        return ", ".join(f"{number} of {bits}" for bits, number in counts.items())


@dataclass(frozen=True)
class MixedPrecision:
    """The outcome of :class:`~torchpare.search.mixed_precision.MixedPrecisionSearch`."""

    points: tuple[Point, ...]
    """Those that were timed, from the fewest bits to the most."""

    floor: float
    dense: float
    """The float model's score."""

    runtime: str

    alone: dict[str, dict[int, float]]
    """By layer and bits, the score with that layer quantized alone."""

    @property
    def best(self) -> Point:
        """The fastest that is above the floor."""
        return min((point for point in self.points if point.enough), key=lambda point: point.latency)

    @property
    def config_list(self) -> list[dict[str, Any]]:
        """The best assignment as a quantizer reads it; empty where float is best."""
        found: dict[int, list[str]] = {}
        for name, bits in self.best.bits.items():
            found.setdefault(bits, []).append(name)
        return [
            {"quant_types": ["weight", "input"], "quant_bits": bits, "op_names": names}
            for bits, names in sorted(found.items())
            if bits != _FLOAT
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line for each assignment."""
        table = Table("layers of bits", "score", "latency, of float", "", title=f"mixed precision on {self.runtime}")
        for point in self.points:
            mark = "chosen" if point == self.best else "" if point.enough else "below the floor"
            table.add_row(point.described, f"{point.score:.4g}", f"{point.latency:.2f}", mark)
        yield table

    def __str__(self) -> str:
        best = self.best
        return (
            f"{best.described} bits: {best.latency:.2f} of the float model's time on {self.runtime}, "
            f"score {best.score:.4g} (floor {self.floor:.4g}, float {self.dense:.4g})"
        )

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw score against time into an SVG file.

        Raises:
            MissingExtraError: matplotlib is not installed.
            FileError: the file cannot be written.
        """
        try:
            import matplotlib as mpl
        except ImportError as error:
            raise MissingExtraError("matplotlib is not installed: pip install 'torchpare[report]'") from error
        mpl.use("svg")
        from matplotlib import pyplot as plt

        figure, axis = plt.subplots(figsize=(6.4, 4.2))
        for enough, colour, label in ((True, "#1d4ed8", "above the floor"), (False, "#9ca3af", "below it")):
            own = [point for point in self.points if point.enough == enough]
            axis.scatter([p.latency for p in own], [p.score for p in own], color=colour, label=label)
        middle = (min(p.latency for p in self.points) + max(p.latency for p in self.points)) / 2
        for point in self.points:  # words run towards the middle, so that none leave the picture
            side, shift = ("right", -8) if point.latency > middle else ("left", 8)
            axis.annotate(point.described, (point.latency, point.score), fontsize=7, xytext=(shift, -2.5),
                          textcoords="offset points", ha=side)  # fmt: skip
        axis.axhline(self.floor, color="black", linestyle=":", linewidth=1)
        axis.scatter([self.best.latency], [self.best.score], facecolors="none", edgecolors="#1d4ed8", s=120)
        axis.set_xlabel(f"latency on {self.runtime}, of the float model's")
        axis.set_ylabel("score")
        axis.legend(fontsize=8)
        figure.tight_layout()
        with atomic_write(path) as lent:
            figure.savefig(lent, format="svg", metadata={"Date": None})
        plt.close(figure)
