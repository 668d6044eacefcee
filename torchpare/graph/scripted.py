"""Functions under ``torch.jit.script`` run as the Python they were made from, for as long as a model is looked at.

Compiled, they take plain numbers: where a size came from is forgotten, and a slice that ends at it holds its channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["scripted_functions_as_python"]


@contextmanager
def scripted_functions_as_python() -> Iterator[None]:
    """Calls of scripted functions go to their sources, which torch keeps with them for its own compiler."""
    kind: Any = torch.jit.ScriptFunction
    compiled = kind.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        source = getattr(function, "_torchdynamo_inline", None)
        return compiled(function, *args, **kwargs) if source is None else source(*args, **kwargs)

    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = compiled
