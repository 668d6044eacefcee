"""Layers that stand in for stock ones, and the numbers that modules and their settings remember of sizes and depth."""

from __future__ import annotations

from torchpare.layers.attention import MultiheadAttention, adopt, is_stock, release

__all__ = ["MultiheadAttention", "adopt", "is_stock", "release"]
