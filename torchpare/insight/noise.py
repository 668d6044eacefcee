"""Signal and rounding noise of tensors: of a weight at once, of an input batch after batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from torchpare.config.layers import output_layout
from torchpare.insight.batches import Batches
from torchpare.insight.layers import floats_of
from torchpare.insight.rest import device_of, run_once
from torchpare.insight.streams import pieces
from torchpare.numerics.affine import Grid, fake_quantize, scale_and_zero_point
from torchpare.numerics.ranges import min_max

__all__ = ["Noise", "Ranges", "show_inputs", "weight_ratios"]

ByBits = dict[int, float]


def show_inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Batches, see: Callable[[str, Tensor, int], None]
) -> int:
    """Show what each layer reads, batch after batch: its name, the tensor, and the axis of the tensor's channels.

    Args:
        model: at rest.
        layers: convolutions and linear layers, by name.
        batches: to go through.
        see: is called with each input.

    Returns:
        how many batches there were.

    Raises:
        CaptureError: the model does not run on a batch.
    """

    def shown(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        x = floats_of((args, kwargs))
        if x is not None:
            beside = len(module.kernel_size) if isinstance(module, _ConvNd) else 0
            see(name, x.detach(), x.dim() - 1 - beside)

    handles = [
        module.register_forward_pre_hook(partial(shown, name), with_kwargs=True) for name, module in layers.items()
    ]
    number = 0
    try:
        for number, (args, kwargs) in enumerate(batches.on(device_of(model)), start=1):
            run_once(model, args, kwargs, f"batch {number - 1} of the data" if batches.own else "example_inputs")
    finally:
        for handle in handles:
            handle.remove()
    return number


class Ranges:
    """The ends of all that was seen of a layer's input, as a whole and by channel."""

    def __init__(self) -> None:
        self._ends: dict[bool, tuple[Tensor, Tensor]] = {}

    def see(self, x: Tensor, axis: int) -> None:
        """Add a tensor whose channels lie along an axis."""
        for by_channel, rows in ((False, x.reshape(1, -1)), (True, x.movedim(axis, 0).flatten(1))):
            low, high = min_max(rows, (1,))
            known = self._ends.get(by_channel)
            if known is not None and known[0].shape == low.shape:
                low, high = torch.minimum(low, known[0]), torch.maximum(high, known[1])
            self._ends[by_channel] = low, high

    def of(self, x: Tensor, axis: int, *, by_channel: bool) -> tuple[Tensor, Tensor]:
        """The ends, in a shape that broadcasts to a tensor."""
        shape = [1] * x.dim()
        if by_channel:
            shape[axis] = -1
        low, high = self._ends[by_channel]
        return low.reshape(shape), high.reshape(shape)


class Noise:
    """Sums of squares of a layer's input and of its rounding errors, by tensor and by channel."""

    def __init__(self, bits: Sequence[int]) -> None:
        self.bits = bits
        self._signal = 0.0
        self._errors = {(by_channel, each): 0.0 for by_channel in (False, True) for each in bits}

    def see(self, x: Tensor, axis: int, ranges: Ranges) -> None:
        """Add a tensor, rounded on the grids of its ranges."""
        self._signal += _squares(x)
        for (by_channel, bits), error in self._errors.items():
            low, high = ranges.of(x, axis, by_channel=by_channel)
            self._errors[by_channel, bits] = error + rounding_error(x, low, high, Grid(bits))

    def ratios(self) -> tuple[ByBits, ByBits]:
        """In dB, by bits: with one grid, and with one for each channel."""
        whole, single = ({bits: _decibels(self._signal, self._errors[by_channel, bits]) for bits in self.bits}
                         for by_channel in (False, True))  # fmt: skip
        return whole, single


def weight_ratios(layer: nn.Module, bits: Sequence[int]) -> tuple[ByBits, ByBits]:
    """Signal over rounding noise of a layer's weight in dB, by bits: with one scale, and with one for each channel."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    axis, groups = output_layout(layer)
    if groups > 1:  # of a transposed convolution: the rows of each group have columns of their own
        weight = weight.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)
    grids = {each: Grid(each, signed=True, symmetric=True, narrow=True) for each in bits}
    every = tuple(range(weight.dim()))
    whole, single = ({each: _weight_ratio(weight, dims, grid) for each, grid in grids.items()}
                     for dims in (every, every[:axis] + every[axis + 1 :]))  # fmt: skip
    return whole, single


def rounding_error(x: Tensor, low: Tensor, high: Tensor, grid: Grid) -> float:
    """The sum of squared errors of a tensor on the grid of a range; NaN where the range is not finite."""
    if not bool((low.isfinite() & high.isfinite()).all()):
        return math.nan
    wide = x if x.dtype == torch.float64 else x.float()
    return _squares(fake_quantize(wide, *scale_and_zero_point(low, high, grid), grid) - wide)


def _weight_ratio(weight: Tensor, dims: tuple[int, ...], grid: Grid) -> float:
    return _decibels(_squares(weight), rounding_error(weight, *min_max(weight, dims), grid))


def _squares(x: Tensor) -> float:
    return sum(float(piece.square().sum()) for piece in pieces(x))


def _decibels(signal: float, noise: float) -> float:
    if not (math.isfinite(signal) and math.isfinite(noise)) or signal == noise == 0:
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
