"""Calling ``update_epoch`` and ``step`` from other training loops, so that nobody has to remember them.

``torchpare.integrations.lightning`` and ``torchpare.integrations.transformers`` have a ``CompressionCallback`` each;
loops of your own, plain or with Accelerate, are given `compression`.
"""

from __future__ import annotations

from torchpare.integrations.loop import Control, compression

__all__ = ["Control", "compression"]
