"""Operators that torch has for short floats only, in float64: what a proof runs in their place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["grouped_product", "in_float64"]


def in_float64(func: Any, args: tuple[Any, ...]) -> Any:
    """What to call for an operator: itself, unless it is given float64 tensors and has no kernel for them."""
    doubles = bool(args) and isinstance(args[0], Tensor) and args[0].dtype is torch.float64
    return grouped_product if doubles and func is torch.ops.aten._grouped_mm.default else func  # noqa: SLF001


def grouped_product(rows: Tensor, weights: Tensor, offs: Tensor, bias: None = None, out_dtype: None = None) -> Tensor:
    """``aten._grouped_mm``, which torch has for short floats only.

    Args:
        rows: (S, in), sorted by group.
        weights: (groups, in, out), a matrix for each.
        offs: where each group's rows end.
        bias: torch has none here either.
        out_dtype: it stays the rows'.
    """
    del bias, out_dtype
    out = rows.new_zeros(len(rows), weights.shape[2])
    start = 0
    for weight, end in zip(weights, offs.tolist(), strict=True):
        torch.mm(rows[start:end], weight, out=out[start:end])
        start = end
    return out
