"""Which modules are looked at, and along which axis of what they return their channels lie."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _LPPoolNd,
    _MaxPoolNd,
)
from torch.utils import _pytree as pytree

from torchpare.config.layers import plain_class

__all__ = ["ChannelAxes", "floats_of", "leaves"]

_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.RNNBase)
_POOLS = (_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _LPPoolNd, _MaxPoolNd)


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that call no others, by name, each once; and attention, which has one within it but does not call it."""
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, nn.MultiheadAttention):
            inside = (*inside, f"{name}." if name else "")
            found[name] = module
        elif not any(True for _ in module.children()):
            found[name] = module
    return found


def floats_of(value: Any) -> Tensor | None:
    """The first tensor of real numbers in what a module takes or returns."""
    return next(
        (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()), None
    )


class ChannelAxes:
    """Where channels lie in what modules return, within one forward pass.

    A module with weights, a norm or a pooling says it by its kind. Any other that returns a tensor of the shape it was
    given has them where the last module of a known kind had them in a tensor of that shape. Where two of them disagree,
    or none is known, nobody can tell.
    """

    def __init__(self) -> None:
        self._by_shape: dict[tuple[int, ...], int | None] = {}

    def of(self, module: nn.Module, output: Tensor) -> int | None:
        """The axis, counted from the front; None if it is not known."""
        shape = tuple(output.shape)
        own = _own_axis(module, output.dim())
        if own is None:
            return self._by_shape.get(shape)
        known = self._by_shape.get(shape, own)
        self._by_shape[shape] = own if known == own else None
        return own


def _own_axis(module: nn.Module, rank: int) -> int | None:
    kind = plain_class(module)
    if issubclass(kind, _LAST):
        axis = rank - 1
    elif issubclass(kind, _ConvNd):
        axis = rank - 1 - len(module.kernel_size)  # type: ignore[arg-type]
    elif issubclass(kind, _POOLS):
        axis = rank - 1 - _dimensions(kind)
    elif issubclass(kind, (_NormBase, nn.GroupNorm)):
        axis = 1
    else:
        return None
    return axis if 0 <= axis < rank else None


def _dimensions(kind: type[nn.Module]) -> int:
    """Of a pooling: its class says it, as in ``AvgPool2d``."""
    named = next(k.__name__ for k in kind.__mro__ if k.__module__ == "torch.nn.modules.pooling")
    return int(named[-2])
