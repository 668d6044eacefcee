"""Calling ``update_epoch`` and ``step`` from the training loops of other libraries, so that nobody has to remember them."""

from __future__ import annotations
