"""Bags of embeddings as rows that are looked up and then added up, which every runtime knows.

torch has one operator for the two, which no runtime takes. Bags of one length (two axes of indices) lie side by side;
of bags that offsets delimit it is worked out which rows each holds, and adding them up is a product with that.
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
    """What runs inside looks rows up and adds them up where it asks for bags."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, or what a bag is."""
        if func is F.embedding_bag:
            given = _SIGNATURE.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            if _is_written_out(given.arguments):
                return _bags(given.arguments)
        return func(*args, **(kwargs or {}))


def _is_written_out(asked: Mapping[str, Any]) -> bool:
    """Whether torch would take what is asked, and numbers no rows anew: what it refuses, it is left to refuse."""
    indices, offsets, factors = asked["input"], asked["offsets"], asked["per_sample_weights"]
    delimited = offsets is not None and offsets.dim() == 1 and not offsets.is_floating_point()
    cut = (indices.dim() == 1 and delimited) or (indices.dim() == 2 and offsets is None)
    fit = factors is None or (asked["mode"] == "sum" and factors.shape == indices.shape)
    return bool(cut and asked["max_norm"] is None and fit)


def _bags(asked: Mapping[str, Any]) -> Tensor:
    """``(B, E)`` of a table ``(N, E)`` and indices, ``(B, L)`` or ``(L,)`` with offsets; padding takes no part."""
    indices, table, padding = asked["input"], asked["weight"], asked["padding_idx"]
    rows = F.embedding(indices, table)
    if asked["per_sample_weights"] is not None:  # of sums alone, says torch
        rows = rows * asked["per_sample_weights"].unsqueeze(-1)
    part = None if padding is None else indices != padding % table.shape[0]
    if asked["offsets"] is not None:
        held = _held(indices, asked["offsets"], part, last=asked["include_last_offset"])
        return _delimited(rows, held, asked["mode"])
    return _side_by_side(rows, part, asked["mode"])


def _side_by_side(rows: Tensor, part: Tensor | None, mode: str) -> Tensor:
    """``(B, E)`` of rows ``(B, L, E)``, of which those take part that ``(B, L)`` says, or all."""
    if part is None:
        return rows.amax(1) if mode == "max" else rows.mean(1) if mode == "mean" else rows.sum(1)
    part = part.unsqueeze(-1)
    if mode == "max":
        return torch.where(part.any(1), rows.masked_fill(~part, -math.inf).amax(1), 0.0)
    total = torch.where(part, rows, 0.0).sum(1)
    return total / part.sum(1).clamp(min=1) if mode == "mean" else total


def _held(indices: Tensor, offsets: Tensor, part: Tensor | None, *, last: bool) -> Tensor:
    """Which of ``L`` rows each bag holds, bool ``(B, L)``; ``last`` says that the last offset is where all end."""
    at = torch.arange(indices.shape[0], device=indices.device)
    begun = at >= offsets.unsqueeze(-1)
    after = begun[1:] if last else torch.cat([begun[1:], torch.zeros_like(begun[:1])])
    held = begun[: after.shape[0]] & ~after
    return held if part is None else held & part


def _delimited(rows: Tensor, held: Tensor, mode: str) -> Tensor:
    """``(B, E)`` of rows ``(L, E)`` and of which bag holds which; a bag that holds none is zero."""
    if mode == "max":
        held = held.unsqueeze(-1)
        return torch.where(held.any(1), rows.masked_fill(~held, -math.inf).amax(1), 0.0)
    total = held.to(rows.dtype) @ rows
    return total / held.sum(1, keepdim=True).clamp(min=1) if mode == "mean" else total
