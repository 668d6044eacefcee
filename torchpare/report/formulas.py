"""How many multiply-accumulates one call of one layer takes, told by its shapes and by what its masks leave.

Every weight of a convolution is used once for each place of its output, every weight of a linear layer once for each
row, so the count is places times weights that no mask removes. What has no weights is counted per element, as the
reference does. A count covers the whole batch; dividing by it is the caller's part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd
from torch.nn.utils.rnn import PackedSequence

__all__ = ["Kept", "operations"]

Kept = Callable[[str], int]
"""How many values of a layer's parameter, by name, no mask removes."""

# Operations per element of the output: what each way of interpolating adds and multiplies.
_UPSAMPLE = {"nearest": 0, "nearest-exact": 0, "linear": 5, "bilinear": 11, "trilinear": 31, "bicubic": 259}
# Gates, each with one addition per hidden value beside its weights, and operations that join them to the new state.
_RECURRENT = {"RNN": (1, 0), "GRU": (3, 4), "LSTM": (4, 4)}


def operations(layer: nn.Module, x: Any, y: Any, kept: Kept, *, full: bool) -> int | None:
    """The count of one call, or None for a layer whose kind is not counted.

    Args:
        layer: any module.
        x: its first input.
        y: its output.
        kept: how many values of each parameter count.
        full: False counts the weights of convolutions, linear and recurrent layers; True also their biases, batch
            norms, leaky ReLU, average pooling and upsampling.
    """
    match layer:
        case _ConvNd():
            # A transposed convolution spreads each place of its input, an ordinary one gathers for each of its output.
            used_at = x if isinstance(layer, _ConvTransposeNd) else y
            biased = _kept_of("bias", layer, kept) * _places(layer, y) if full else 0
            return kept("weight") * _places(layer, used_at) + biased
        case nn.Linear():
            return _rows(y) * (kept("weight") + (_kept_of("bias", layer, kept) if full else 0))
        case nn.RNNBase() | nn.RNNCellBase():
            return _rows(x) * (_recurrent(layer, kept) + (_kept_of("bias", layer, kept) if full else 0))
        case _ if full:
            return _elementwise(layer, x, y, kept)
        case _:
            return None


def _recurrent(layer: Any, kept: Kept) -> int:
    """Of one step of all its layers and directions."""
    kind = (layer.mode if isinstance(layer, nn.RNNBase) else type(layer).__name__.removesuffix("Cell")).partition("_")[
        0
    ]
    gates, joining = _RECURRENT[kind]
    stacked = sum(name.startswith("weight_hh") for name, _ in layer.named_parameters(recurse=False))
    return _kept_of("weight", layer, kept) + stacked * (gates + joining) * layer.hidden_size


def _elementwise(layer: nn.Module, x: Tensor, y: Tensor, kept: Kept) -> int | None:
    match layer:
        case _BatchNorm():
            channels = kept("weight") if layer.affine else layer.num_features
            return 2 * channels * (x.numel() // x.shape[1])
        case nn.LeakyReLU() | _AvgPoolNd():
            return y.numel()
        case _AdaptiveAvgPoolNd():
            return (math.prod(have // want for have, want in zip(x.shape, y.shape, strict=True)) + 1) * y.numel()
        case nn.Upsample():
            return _UPSAMPLE[layer.mode] * y.numel()
        case _:
            return None


def _kept_of(prefix: str, layer: nn.Module, kept: Kept) -> int:
    return sum(kept(name) for name, _ in layer.named_parameters(recurse=False) if name.startswith(prefix))


def _places(layer: _ConvNd, tensor: Tensor) -> int:
    """Samples times spatial places, whether or not there is a batch axis."""
    channels = tensor.shape[-1 - len(layer.kernel_size)]
    return tensor.numel() // channels


def _rows(values: Tensor | PackedSequence) -> int:
    """How many vectors lie along the last axis: samples, times steps or tokens."""
    tensor = values.data if isinstance(values, PackedSequence) else values
    return tensor.numel() // tensor.shape[-1]
