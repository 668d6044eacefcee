"""Channels of neighbouring layers brought to like ranges, so that one grid serves all of them; the function stays.

Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV
2019, section 4.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import quantizers_of
from torchpare.errors import QuantizationError
from torchpare.graph.capture import capture
from torchpare.graph.chains import Chain, chains
from torchpare.numerics.shards import refuse_sharded

__all__ = ["Equalized", "equalize"]


@dataclass(frozen=True)
class Equalized:
    """A pair of weights that was equalized.

    Attributes:
        first: name of the weight that makes the channels.
        second: name of the weight that reads them.
        spread_before: the largest range of a channel over the smallest, in the first weight, norm included.
        spread_after: the same afterwards.
    """

    first: str
    second: str
    spread_before: float
    spread_after: float


def equalize(model: nn.Module, dummy_input: Any, *, sweeps: int = 40, tolerance: float = 1e-3) -> list[Equalized]:
    """Scale channels up in one layer and down in the next until both have like ranges; the model's function stays.

    With ``r1`` and ``r2`` the largest absolute weights of a channel where it is made and where it is read, the first is
    divided by ``sqrt(r1 / r2)`` and the second multiplied by it. Pairs with ReLUs, poolings and a flatten between them
    take part; a batch norm between them counts as part of the first and takes the factor over. What bounds a channel (a
    ReLU6), a GELU, or a second reader keeps a pair out. Call it before a quantizer is made, on a trained model.

    Args:
        model: changed in place: parameters keep their identity, zeros stay zero.
        dummy_input: an example input (a tensor, a tuple of positional arguments, or a dict of keyword arguments), from
            which is found which layer feeds which.
        sweeps: how often all pairs are gone through, at most.
        tolerance: the sweeps end when no channel is scaled by more than this, relatively.

    Returns:
        The pairs, in the order of the model.

    Raises:
        CaptureError: the model does not run on ``dummy_input``.
        QuantizationError: a weight of a pair holds NaN or infinities, or the model is quantized already, on grids that
            would no longer fit. In each case the model is as it was.
    """
    if (hung := next(quantizers_of(model), None)) is not None:
        raise QuantizationError(f"{hung[0]} is quantized already, on a grid that would no longer fit: equalize the "
                                "model before a quantizer is made")  # fmt: skip
    refuse_sharded(model, "cannot be equalized", QuantizationError)
    pairs = chains(capture(model, dummy_input))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = {name for pair in pairs for name in (pair.first, pair.bias, pair.second, pair.norm, pair.norm_bias) if name}
    exact = {name: tensors[name].detach().double() for name in sorted(names)}
    for name, value in exact.items():
        if not bool(value.isfinite().all()):
            raise QuantizationError(f"{name} holds NaN or infinite values, so its channels have no ranges to equalize")
    statistics = {pair.norm_variance: tensors[pair.norm_variance].double() for pair in pairs if pair.norm_variance}
    before = [_spread(_made(pair, exact, statistics)) for pair in pairs]
    for _ in range(sweeps):
        moved = max((_equalize(pair, exact, statistics) for pair in pairs), default=0.0)
        if moved <= tolerance:
            break
    with torch.no_grad():
        for name, value in exact.items():
            tensors[name].copy_(value)
    return [
        Equalized(pair.first, pair.second, was, _spread(_made(pair, exact, statistics)))
        for pair, was in zip(pairs, before, strict=True)
    ]


def _equalize(pair: Chain, exact: dict[str, Tensor], statistics: dict[str, Tensor]) -> float:
    """Equalize one pair; how much the most of its channels was scaled."""
    made, read = _made(pair, exact, statistics), _read(pair, exact)
    factor = torch.where((made > 0) & (read > 0), (made / read.clamp(min=1e-300)).sqrt(), 1.0)
    if pair.norm:
        exact[pair.norm] /= factor
        exact[pair.norm_bias] /= factor
    else:
        rows = _outputs_first(exact[pair.first], pair) / factor[:, None]
        exact[pair.first] = _outputs_back(rows, exact[pair.first], pair)
        if pair.bias:
            exact[pair.bias] /= factor
    columns = _inputs_first(exact[pair.second], pair) * factor.repeat_interleave(pair.repeat)[:, None]
    exact[pair.second] = _inputs_back(columns, exact[pair.second], pair)
    return float((factor - 1).abs().max()) if len(factor) else 0.0


def _made(pair: Chain, exact: dict[str, Tensor], statistics: dict[str, Tensor]) -> Tensor:
    """The largest absolute weight of each channel where it is made, ``(O,)``; a norm after it included."""
    largest = _outputs_first(exact[pair.first], pair).abs().amax(1)
    if not pair.norm:
        return largest
    return largest * exact[pair.norm].abs() / (statistics[pair.norm_variance] + pair.norm_epsilon).sqrt()


def _read(pair: Chain, exact: dict[str, Tensor]) -> Tensor:
    """The largest absolute weight that meets each channel where it is read, ``(O,)``."""
    return _inputs_first(exact[pair.second], pair).abs().amax(1).reshape(-1, pair.repeat).amax(1)


def _outputs_first(weight: Tensor, pair: Chain) -> Tensor:
    """A weight as a row for each channel that it makes."""
    if not pair.first_transposed:
        return weight.flatten(1)
    inputs, outputs = weight.shape[0] // pair.first_groups, weight.shape[1]
    per_group = weight.reshape(pair.first_groups, inputs, outputs, -1)
    return per_group.movedim(2, 1).reshape(pair.first_groups * outputs, -1)


def _outputs_back(rows: Tensor, like: Tensor, pair: Chain) -> Tensor:
    if not pair.first_transposed:
        return rows.reshape(like.shape)
    inputs, outputs = like.shape[0] // pair.first_groups, like.shape[1]
    return rows.reshape(pair.first_groups, outputs, inputs, -1).movedim(1, 2).reshape(like.shape)


def _inputs_first(weight: Tensor, pair: Chain) -> Tensor:
    """A weight as a row for each channel that it reads."""
    if pair.transposed:
        return weight.flatten(1)
    outputs, inputs = weight.shape[0] // pair.groups, weight.shape[1]
    per_group = weight.reshape(pair.groups, outputs, inputs, -1)
    return per_group.movedim(2, 1).reshape(pair.groups * inputs, -1)


def _inputs_back(rows: Tensor, like: Tensor, pair: Chain) -> Tensor:
    if pair.transposed:
        return rows.reshape(like.shape)
    outputs, inputs = like.shape[0] // pair.groups, like.shape[1]
    return rows.reshape(pair.groups, inputs, outputs, -1).movedim(1, 2).reshape(like.shape)


def _spread(ranges: Tensor) -> float:
    """The largest over the smallest that is not zero."""
    alive = ranges[ranges > 0]
    return float(alive.max() / alive.min()) if len(alive) else math.nan
