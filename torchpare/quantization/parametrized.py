"""Layers that a ``config_list`` means by their type, but whose type is another one since a tensor is parametrized.

torch makes a ``ParametrizedConv2d`` of a convolution with a weight norm. No quantizer lies behind such a norm, and
where types select layers, this one would stay float without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from torchpare.config import QuantEntry, read_entries
from torchpare.config.targets import DEFAULT

__all__ = ["warn_of_parametrized"]


def warn_of_parametrized(
    model: nn.Module,
    config_list: Any,
    targets: Collection[str],
    kind: type[QuantEntry],
    default: Sequence[type[nn.Module]],
    algorithm: str,
) -> None:
    """Warn of layers whose weights would be quantized by type, were they not parametrized.

    Args:
        model: only read.
        config_list: what selects, and is valid.
        targets: the names of the layers that it selects.
        kind: what its entries may say.
        default: what ``op_types: ['default']`` stands for.
        algorithm: its name, for the message.
    """
    entries = read_entries(config_list, kind)
    missed = []
    for name, module in model.named_modules():
        if not name or name in targets or not is_parametrized(module):
            continue
        meant = [entry for entry in entries if _means(entry, name, type_before_parametrizations(module), default)]
        if meant and not meant[-1].exclude and "weight" in meant[-1].quant_types:
            missed.append(name)
    if missed:
        warnings.warn(
            f"{algorithm} leaves {', '.join(map(repr, missed[:5]))}{', ...' if len(missed) > 5 else ''} as they are: a "
            "parametrization makes their weights at each call, after which no quantizer lies. Take it off first "
            "(torch.nn.utils.parametrize.remove_parametrizations), or exclude them",
            stacklevel=3,
        )


def _means(entry: Any, name: str, plain: type[nn.Module], default: Sequence[type[nn.Module]]) -> bool:
    """Whether an entry would reach a layer of a class."""
    if entry.op_names is not None and name not in entry.op_names:
        return False
    types = entry.op_types
    return types is None or plain.__name__ in types or (DEFAULT in types and plain in default)
