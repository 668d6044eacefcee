"""Layers that stand in for stock ones which refuse the sizes that pruning leaves; same parameters, same names."""

from __future__ import annotations

from torchpare.layers.attention import MultiheadAttention, adopt, is_stock, release

__all__ = ["MultiheadAttention", "adopt", "is_stock", "release"]
