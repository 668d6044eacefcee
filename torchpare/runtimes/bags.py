"""Bags of embeddings as rows that are looked up and then added up, which every runtime knows.

torch has one operator for the two, which no runtime takes. Bags of one length (two axes of indices) are written out;
those that offsets delimit stay what they are.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["WritesBagsOut"]

_SIGNATURE = inspect.signature(F.embedding_bag)


class WritesBagsOut(TorchFunctionMode):
    """What runs inside looks rows up and adds them up where it asks for bags of one length."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, or what a bag is."""
        if func is F.embedding_bag:
            given = _SIGNATURE.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            asked = given.arguments
            if _is_written_out(asked):
                return _bag(
                    asked["input"], asked["weight"], asked["mode"], asked["per_sample_weights"], asked["padding_idx"]
                )
        return func(*args, **(kwargs or {}))


def _is_written_out(asked: Mapping[str, Any]) -> bool:
    """Whether the bags are of one length, and torch would take what is asked: what it refuses, it is left to refuse."""
    indices, factors = asked["input"], asked["per_sample_weights"]
    fit = factors is None or (asked["mode"] == "sum" and factors.shape == indices.shape)
    return bool(indices.dim() == 2 and asked["offsets"] is None and asked["max_norm"] is None and fit)


def _bag(indices: Tensor, table: Tensor, mode: str, factors: Tensor | None, padding: int | None) -> Tensor:
    """``(B, E)`` of indices ``(B, L)`` and a table ``(N, E)``; what a bag has for padding takes no part."""
    rows = F.embedding(indices, table)
    if factors is not None:  # of sums alone, says torch
        rows = rows * factors.unsqueeze(-1)
    if padding is None:
        return rows.amax(1) if mode == "max" else rows.mean(1) if mode == "mean" else rows.sum(1)
    part = (indices != padding % table.shape[0]).unsqueeze(-1)
    if mode == "max":
        return torch.where(part.any(1), rows.masked_fill(~part, -math.inf).amax(1), 0.0)
    total = torch.where(part, rows, 0.0).sum(1)
    return total / part.sum(1).clamp(min=1) if mode == "mean" else total
