"""The layer types that NNI's ``default`` stood for, by name."""

from __future__ import annotations

from torchpare.config import WEIGHTED

__all__ = ["weighted_modules"]

weighted_modules: list[str] = [kind.__name__ for kind in WEIGHTED]
"""What ``default`` stands for to pruners of single weights and to quantizers; to pruners of filters, convolutions."""
