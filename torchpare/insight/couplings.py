"""Which layers share channels, and by what their channels must stay divisible, as a value."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import nn

from torchpare.insight.laid_out import folded
from torchpare.report import Block, Column, TableBlock, TextBlock
from torchpare.speedup import ChannelDependency, GroupDependency
from torchpare.speedup.dependency import write_channel_sets, write_group_divisors

__all__ = ["Coupling", "coupling"]


@dataclass(frozen=True)
class Coupling:
    """Layers that lose their output channels together, and the numbers by which channels must stay divisible."""

    sets: tuple[tuple[str, ...], ...]
    """Names of layers that share channels, in the order of the model; one that shares with nobody is a set alone."""
    divisors: dict[str, int]
    """By convolution; 1 where nothing is asked."""

    @property
    def shared(self) -> tuple[tuple[str, ...], ...]:
        """The sets of more than one layer."""
        return tuple(each for each in self.sets if len(each) > 1)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        return {"sets": [list(each) for each in self.sets], "divisors": self.divisors}

    def export_sets(self, path: str | os.PathLike[str]) -> None:
        """Write the sets as CSV, as ``ChannelDependency.export`` does.

        Raises:
            FileError: the file cannot be written.
        """
        write_channel_sets(path, self.sets)

    def export_divisors(self, path: str | os.PathLike[str]) -> None:
        """Write the divisors as CSV, as ``GroupDependency.export`` does.

        Raises:
            FileError: the file cannot be written.
        """
        write_group_divisors(path, self.divisors)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line for each set of more than one layer."""
        table = Table("", "layers that share channels", title=self._summary(), title_justify="left")
        for number, each in enumerate(self.shared, start=1):
            table.add_row(str(number), ", ".join(each))
        yield table

    def blocks(self) -> tuple[Block, ...]:
        """The tables for the page."""
        found: list[Block] = [TextBlock(self._summary() + ".", "soft")]
        if self.shared:
            rows = [(f"Set {number}", len(each), ", ".join(each)) for number, each in enumerate(self.shared, start=1)]
            columns = (Column("set"), Column("layers", numeric=True), Column("their names"))
            found.append(folded(TableBlock(columns, rows), f"All {len(rows)} sets"))
        grouped = [(name, divisor) for name, divisor in self.divisors.items() if divisor > 1]
        if grouped:
            table = TableBlock((Column("layer"), Column("channels stay divisible by", numeric=True)), grouped)
            found.append(folded(table, f"All {len(grouped)} layers whose channels stay divisible by a number"))
        return tuple(found)

    def _summary(self) -> str:
        alone = len(self.sets) - len(self.shared)
        asked = sum(each > 1 for each in self.divisors.values())
        lose, alone_lose = ("loses its" if n == 1 else "lose their" for n in (len(self.shared), alone))
        sets, layers = _number(len(self.shared), "set"), _number(alone, "layer")
        together = f"{sets} of layers {lose} channels together, {layers} {alone_lose} channels alone"
        return f"{together}; groups ask that those of {asked} stay divisible" if asked else together


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def coupling(model: nn.Module, example_inputs: Any) -> Coupling:
    """Find out which layers share channels.

    Args:
        model: any module; it is not changed.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.

    Raises:
        CaptureError: the model does not run on the inputs.
    """
    channels = ChannelDependency(model, example_inputs)
    groups = GroupDependency.of_space(model, channels.space)
    order = {layer: place for place, layer in enumerate(channels.space.producers)}
    sets = tuple(tuple(sorted(each, key=order.__getitem__)) for each in channels.dependency_sets)
    return Coupling(sets, groups.dependency)
