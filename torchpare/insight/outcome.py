"""What was found out about a model, as one value: tables, a file for programs, and one page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from torchpare.files.atomic import atomic_write
from torchpare.insight.activation_ranges import Activations
from torchpare.insight.costs import Costs
from torchpare.insight.couplings import Coupling
from torchpare.insight.frontiers import Frontier
from torchpare.insight.rounding_errors import Rounding
from torchpare.insight.sensitivities import Sensitivity
from torchpare.report import Block, Headline, Page, Section, TableBlock, numbers, render_page, write_page

__all__ = ["Insight"]

_SENSITIVITY = "What the model is still worth when one layer alone is pruned: layers that bear much can lose much."
_CHANNELS = "On these data a dead channel adds nothing to what follows, and a constant one no more than a bias would."
_RANGES = "What layers return. A grid of integers covers the whole range or clips it: outliers make every step wider."
_ROUNDING = "Each weight and each input rounded by itself, all else in floating point."
_COUPLING = "Through residuals, gates and groups: what one layer of a set loses, the others lose too."


@dataclass(frozen=True)
class Insight:
    """What was found out about a model. What could not be worked out is None, and `skipped` says why."""

    name: str
    kind: str
    """The name of the model's class."""
    costs: Costs | None
    activations: Activations | None
    rounding: Rounding | None
    coupling: Coupling | None
    sensitivity: Sensitivity | None
    frontier: Frontier | None
    skipped: dict[str, str] = field(default_factory=dict)
    """By the name of what is missing, the reason."""
    environment: dict[str, str] = field(default_factory=dict)
    version: int = 1
    """Of the layout of `to_dict`."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        parts = {name: None if part is None else part.to_dict() for name, part in self._parts().items()}
        said = {"version": self.version, "name": self.name, "kind": self.kind}
        return {**said, **parts, "skipped": self.skipped, "environment": self.environment}

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write it for programs to read.

        Raises:
            FileError: the file cannot be written.
        """
        with atomic_write(path) as lent:
            lent.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write the page: one file, with everything in it.

        Raises:
            MissingExtraError: jinja2 is not installed.
            FileError: the file cannot be written.
        """
        write_page(self.page(), path)

    def page(self) -> Page:
        """The page as a value; its sections can stand in another one."""
        return Page(
            self.name, self._summary(), None, self.sections(), self._headlines(), self.environment, "torchpare insight"
        )

    def sections(self) -> tuple[Section, ...]:
        """A section for each thing that was found out, for any page."""
        found: list[tuple[str, str, Sequence[Block]]] = []
        if self.costs:
            found.append(("Costs by layer", "", self.costs.blocks()))
        if self.frontier:
            found.append(("Accuracy and latency", "", self.frontier.blocks()))
        if self.sensitivity:
            found.append(("Sensitivity", _SENSITIVITY, self.sensitivity.blocks()))
        if self.activations:
            found.append(("Channels that say nothing", _CHANNELS, self.activations.channel_blocks()))
            found.append(("Activation ranges", _RANGES, self.activations.range_blocks()))
        if self.rounding:
            found.append(("Quantization error", _ROUNDING, self.rounding.blocks()))
        if self.coupling:
            found.append(("Layers that share channels", _COUPLING, self.coupling.blocks()))
        if self.skipped:
            reasons = TableBlock(("what", "why"), tuple(self.skipped.items()))
            found.append(("What is missing, and why", "", (reasons,)))
        return tuple(Section(title, text, blocks) for title, text, blocks in found if blocks)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Every analysis as a table, and what is missing."""
        yield f"{self.name}: {self._summary()}"
        for part in self._parts().values():
            if part is not None:
                yield ""
                yield part
        for name, reason in self.skipped.items():
            yield f"\nno {name}: {reason}"

    def _repr_html_(self) -> str:
        """The page, as notebooks show it, in a frame of its own so that its style stays there."""
        return f'<iframe srcdoc="{escape(render_page(self.page()))}" style="width:100%;height:640px;border:0"></iframe>'

    def _parts(self) -> dict[str, Any]:
        return {"costs": self.costs, "activations": self.activations, "rounding": self.rounding,
                "coupling": self.coupling, "sensitivity": self.sensitivity, "frontier": self.frontier}  # fmt: skip

    def _summary(self) -> str:
        if self.costs is None:
            return f"A {self.kind}."
        layers, batch = len(self.costs.in_order), self.costs.batch
        return f"A {self.kind} of {layers} layers, run in evaluation mode on a batch of {batch}."

    def _headlines(self) -> tuple[Headline, ...]:
        found = []
        if self.costs:
            slowest = max(self.costs.in_order, key=lambda layer: layer.seconds)
            found += [
                Headline("Parameters", *_split(numbers.count(self.costs.params))),
                Headline("Multiply-accumulates", *_split(numbers.count(self.costs.macs)), "for one sample"),
                Headline("Latency", *_split(numbers.duration(self.costs.whole.median)),
                         f"{numbers.duration(self.costs.whole.lower_quartile)} to "
                         f"{numbers.duration(self.costs.whole.upper_quartile)}"),
                Headline("Slowest layer", f"{100 * self.costs.share(slowest):.0f}", "% of the time", slowest.name),
            ]  # fmt: skip
        if self.activations and self.activations.channels:
            idle = sum(each.idle for each in self.activations.channels)
            total = sum(each.channels for each in self.activations.channels)
            found.append(Headline("Channels that say nothing", f"{idle:,}", "", f"of {total:,}"))
        if self.rounding and self.rounding.layers:
            bits = min(self.rounding.bits)
            worst = self.rounding.worst(bits)[0]
            found.append(Headline(f"Worst layer at {bits} bits", f"{worst.worst(bits):.0f}", "dB", worst.name))
        return tuple(found)


def _split(words: str) -> tuple[str, str]:
    """A figure and its unit."""
    figure, _, unit = words.partition(" ")
    return figure, unit
