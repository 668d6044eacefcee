"""Biases that take back what rounding weights and activations has added to the mean of each channel.

Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019, section 4.2: rounding errors do not average out over a channel's weights, so that its output is shifted; the shift
is measured and subtracted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach.reading import before_quantizer
from torchpare.config.layers import FILTERED
from torchpare.errors import QuantizationError
from torchpare.quantization.held import Memory
from torchpare.quantization.twin import compressed, float_twin, quantized_layers, run, watched

__all__ = ["correct_biases"]


def correct_biases(model: nn.Module, batches: Iterable[Any], *, memory_cap: int | None = None) -> dict[str, float]:
    """Subtract from each bias by how much the mean output of its channel differs from that of the float model.

    One layer after the other in the order in which they are called, so that each sees those before it corrected. A
    layer without a bias whose batch norm is folded has the running mean of that norm corrected instead. Layers with
    neither, and those that are no convolutions or linear layers, are left out.

    Args:
        model: quantized and calibrated; its biases and running means are changed in place.
        batches: inputs like those the model will meet: each a tensor, a tuple of positional arguments, or a dict of
            keyword arguments. No labels are needed. They are gone through once, and kept for each layer.
        memory_cap: how many bytes of them to keep in memory; the others wait in a temporary file, in the folder that
            ``TMPDIR`` says, and what is found is the same. No limit if None. Of activations only sums are kept.

    Returns:
        By layer name the largest correction, in the order of the calls.

    Raises:
        QuantizationError: nothing is quantized, there are no batches, or means are not finite. In the last case the
            layers before the one that is named are corrected.
        ConfigError: ``memory_cap`` is no number of bytes.
    """
    with Memory(memory_cap) as memory:
        return _corrected_all(model, *quantized_layers(model, batches, memory))


def _corrected_all(model: nn.Module, order: list[str], held: Iterable[Any]) -> dict[str, float]:
    twin = float_twin(model)
    done: dict[str, float] = {}
    for name in order:
        layer = compressed(model, name)
        place, sign = _corrected(layer)
        if place is None:
            continue
        # From the end, since what a layer is given may be one sample, not a batch.
        axis = -1 if isinstance(layer, nn.Linear) else 1 - before_quantizer(layer, "weight").dim()
        shift = _mean(model, name, held, axis) - _mean(twin, name, held, axis)
        if not bool(shift.isfinite().all()):
            raise QuantizationError(
                f"{name}: the means of its outputs are NaN or infinite, so its bias cannot be mended"
            )
        with torch.no_grad():
            place.add_((sign * shift).to(place.dtype))
        done[name] = float(shift.abs().max())
    return done


def _corrected(layer: Any) -> tuple[Any, int]:
    """What takes the correction, and with which sign; None where nothing can."""
    if not isinstance(layer, FILTERED):
        return None, 0
    if layer.bias is not None:
        return layer._parameters["bias"], -1  # noqa: SLF001 - the bias itself; reading the attribute may mask it
    fold: Any = layer.torchpare_fold
    return (fold[0].running_mean, 1) if fold else (None, 0)


def _mean(model: nn.Module, name: str, batches: Iterable[Any], axis: int) -> Tensor:
    """The mean of each output channel over all batches, each value counting once; float64."""
    total, count = torch.zeros(0), 0

    def add(given: Tensor, output: Tensor) -> None:
        del given
        nonlocal total, count
        rows = output.movedim(axis, -1).flatten(0, -2).double()
        total = rows.sum(0) if not count else total.add_(rows.sum(0))
        count += rows.shape[0]

    with watched(model, name, add):
        for batch in batches:
            run(model, batch)
    return total / max(count, 1)
