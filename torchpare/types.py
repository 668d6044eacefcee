"""The few types that travel between rooms, and the legend of letters.

Letters used in docstrings and names: ``O`` output channels, ``I`` input channels, ``K`` kernel elements,
``N`` batch, ``C`` channels, ``G`` groups, ``H W`` height and width.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

__all__ = ["LayerMasks", "Mask", "Masks"]

Mask: TypeAlias = Tensor
"""A bool tensor that broadcasts to its parameter: True stays, False is pruned.

It has the parameter's rank, with size 1 on every axis along which it is constant. A per-channel mask of a weight of
shape ``(O, I, K, K)`` is therefore a bool vector lying along its own axis, of shape ``(O, 1, 1, 1)``; a fine-grained
one has the full shape. Of a bias or a norm's scale it is a plain ``(O,)`` vector.
"""

LayerMasks: TypeAlias = dict[str, Mask]
"""The masks of one layer by parameter name: ``{"weight": ..., "bias": ...}``."""

Masks: TypeAlias = dict[str, LayerMasks]
"""The masks of a model by qualified layer name, as in ``mask.pth``: ``{"conv1": {"weight": ..., "bias": ...}}``."""
