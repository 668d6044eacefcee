"""Tensors that a module's forward keeps in a plain dict from one call to the next.

Such a cache holds what was computed from parameters, often before they were cut: whoever runs a copy of a model, or
changes its parameters, must empty it first. The model fills it again when it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["caches_of"]


def caches_of(model: nn.Module) -> Iterator[dict[Any, Any]]:
    """Every plain dict attribute of a module of ``model`` that holds tensors only, and at least one."""
    for module in model.modules():
        for name, value in vars(module).items():
            own = name in ("_parameters", "_buffers", "_modules") or name.endswith("hooks")
            if type(value) is dict and value and not own and all(isinstance(item, Tensor) for item in value.values()):
                yield value
