"""What rounding to a few bits does to each layer: signal over noise of its weights and of what it reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import nn

from torchpare.config.layers import FILTERED, plain_class, type_name
from torchpare.errors import ConfigError
from torchpare.insight.batches import Batches
from torchpare.insight.laid_out import charts, finite, folded
from torchpare.insight.noise import Noise, Ranges, show_inputs, weight_ratios
from torchpare.insight.rest import at_rest, stand_in
from torchpare.numerics.affine import MAX_BITS
from torchpare.report import Block, Cell, Column, TableBlock
from torchpare.report.layer_figures import Dots, dots

__all__ = ["LayerRounding", "Rounding", "check_bits", "rounding"]

BAD = 15.0
"""In dB: below it, errors have more than a thirtieth of the signal's power."""

_COLUMNS = ("weight, per tensor", "weight, per channel", "input, per tensor", "input, per channel")
_KINDS = ("weight per channel", "per tensor", "input")


@dataclass(frozen=True)
class LayerRounding:
    """Signal over quantization noise of one layer, in dB by bits: infinite where nothing is lost, NaN where unknown."""

    name: str
    kind: str
    weight_tensor: dict[int, float]
    """Of the weight, with one scale for all of it; symmetric, signed, narrow."""
    weight_channel: dict[int, float]
    """With one scale for each output channel."""
    input_tensor: dict[int, float]
    """Of the layer's input, with one scale and zero point; affine, of the whole range that the data show."""
    input_channel: dict[int, float]
    """With one of each for every channel of the input."""

    def worst(self, bits: int) -> float:
        """The least of what an integer runtime uses: the weight by channel and the input by tensor."""
        known = [value for value in (self.weight_channel[bits], self.input_tensor[bits]) if not math.isnan(value)]
        return min(known, default=math.inf)


@dataclass(frozen=True)
class Rounding:
    """What rounding does to each convolution and linear layer, in the order of the model."""

    layers: tuple[LayerRounding, ...]
    bits: tuple[int, ...]
    batches: int
    own_data: bool

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it; what is infinite or unknown is None."""
        rows = [
            {"name": each.name, "kind": each.kind,
             **{key: {str(bits): finite(value) for bits, value in getattr(each, key).items()}
                for key in ("weight_tensor", "weight_channel", "input_tensor", "input_channel")}}
            for each in self.layers
        ]  # fmt: skip
        return {"bits": list(self.bits), "batches": self.batches, "own_data": self.own_data, "layers": rows}

    def worst(self, bits: int) -> tuple[LayerRounding, ...]:
        """The layers, from the one that rounding hurts most."""
        return tuple(sorted(self.layers, key=lambda each: each.worst(bits)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The layers that rounding hurts most, at the fewest bits."""
        table = Table("layer", title=f"signal over quantization noise, dB, {self._seen()}", title_justify="left")
        for bits in self.bits:
            for head in ("weight by channel", "by tensor", "input by tensor"):
                table.add_column(f"{bits} bits, {head}", justify="right")
        for each in self.worst(min(self.bits))[:20]:
            table.add_row(each.name, *(_say(kind[bits]) for bits in self.bits for kind in _of(each)))
        yield table

    def blocks(self) -> tuple[Block, ...]:
        """Charts and the table for the page."""
        found: list[Block] = []
        for bits in self.bits:
            rows = [Dots(each.name, [_shown(kind[bits]) for kind in _of(each)], _told(each, bits))
                    for each in self.worst(bits)]  # fmt: skip
            found += charts(
                rows, partial(_drawn, rows), f"At {bits} bits", "In dB, worst first; further right is better.", _said
            )
            columns = [Column("layer"), Column("kind"), *(Column(head, numeric=True) for head in _COLUMNS)]
            table = TableBlock(
                columns,
                [(each.name, each.kind, *(_cell(kind[bits]) for kind in _all(each))) for each in self.layers],
                note="Signal over quantization noise in dB: 10 log10 of the sum of squares over that of the errors; "
                "6 dB are a bit. Weights on a symmetric signed grid over their whole range, inputs on an affine one "
                f"over all that was seen {self._seen()}.",
            )
            found.append(folded(table, f"All {len(self.layers)} layers at {bits} bits"))
        return tuple(found) if self.layers else ()

    def _seen(self) -> str:
        if not self.own_data:
            return "on the example input alone"
        return f"on {self.batches} batch{'es' if self.batches != 1 else ''} of data"


def rounding(
    model: nn.Module,
    example_inputs: Any,
    data: Iterable[Any] | None = None,
    *,
    bits: Sequence[int] = (8, 4),
    max_batches: int | None = None,
) -> Rounding:
    """Measure what rounding does to the weight and the input of each convolution and linear layer, each by itself.

    The data are gone through twice: for the ranges, then for the errors. Of a layer that is called more often in a
    pass, all its inputs count together.

    Args:
        model: any module; afterwards it is as it was before.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        data: batches; the example input alone if not given.
        bits: how many, each from 2 to 16.
        max_batches: how many batches to look at; all if not given.

    Raises:
        ConfigError: the bits or the data cannot be used.
        CaptureError: the model does not run on a batch.
    """
    wanted = check_bits(bits)
    batches = Batches(example_inputs, data, max_batches)
    model = stand_in(model)
    layers = {name: module for name, module in model.named_modules() if issubclass(plain_class(module), FILTERED)}
    ranges = {name: Ranges() for name in layers}
    noise = {name: Noise(wanted) for name in layers}
    with at_rest(model):
        number = show_inputs(model, layers, batches, lambda name, x, axis: ranges[name].see(x, axis))
    with at_rest(model):  # anew, with the same random numbers: a loader that shuffles gives the same batches again
        show_inputs(model, layers, batches, lambda name, x, axis: noise[name].see(x, axis, ranges[name]))
        rows = tuple(
            LayerRounding(
                name or f"({type_name(model)})",
                type_name(module),
                *weight_ratios(module, wanted),
                *noise[name].ratios(),
            )
            for name, module in layers.items()
        )
    return Rounding(rows, wanted, number, batches.own)


def check_bits(bits: Sequence[int]) -> tuple[int, ...]:
    """Numbers of bits that a grid can have.

    Raises:
        ConfigError: one is none, or there are none.
    """
    wanted = tuple(bits)
    if not wanted or not all(isinstance(each, int) and 2 <= each <= MAX_BITS for each in wanted):
        raise ConfigError(f"bits is {bits!r}; give whole numbers from 2 to {MAX_BITS}, such as (8, 4)")
    return wanted


def _all(each: LayerRounding) -> tuple[dict[int, float], ...]:
    return each.weight_tensor, each.weight_channel, each.input_tensor, each.input_channel


def _of(each: LayerRounding) -> tuple[dict[int, float], ...]:
    return each.weight_channel, each.weight_tensor, each.input_tensor


def _drawn(rows: Sequence[Dots], part: Sequence[Dots]) -> str:
    known = [value for row in rows for value in row.values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    low, high = 5 * math.floor(low / 5), 5 * math.ceil(high / 5)
    return dots(part, _said(part), key=_KINDS, low=low, high=max(high, low + 5), unit="dB")


def _shown(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _told(each: LayerRounding, bits: int) -> str:
    said = ", ".join(f"{kind} {_say(values[bits])} dB" for kind, values in zip(_KINDS, _of(each), strict=True))
    return f"{each.name} at {bits} bits: {said}"


def _say(value: float) -> str:
    if math.isnan(value):
        return "\N{EN DASH}"
    return "exact" if value == math.inf else f"{value:.1f}"


def _cell(value: float) -> Cell:
    if math.isnan(value):
        return Cell(_say(value), "soft")
    return Cell(_say(value), "bad" if value < BAD else "")


def _said(rows: Sequence[Dots]) -> str:
    return "; ".join(row.tip for row in rows)
