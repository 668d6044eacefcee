"""No hunt for cyclic garbage while an analysis makes millions of small objects that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["paused_garbage_collection"]


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
    """Python's cycle collector rests: a full pass over everything that torch has loaded takes a tenth of a second.

    What is unused and in no cycle (nearly everything, tensors above all) is freed at once as ever.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
