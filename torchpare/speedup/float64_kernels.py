"""Operators that torch has for short floats only, in float64: what a proof runs in their place."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["grouped_product", "in_float64"]


def in_float64(func: Any, args: tuple[Any, ...]) -> Any:
    """What to call for an operator: itself, unless it is given float64 tensors and has no kernel for them."""
    doubles = bool(args) and isinstance(args[0], Tensor) and args[0].dtype is torch.float64
    if doubles and getattr(func, "overloadpacket", None) is _GROUPED:
        return grouped_product
    return partial(_with_short_scale, func) if doubles and func in _SHORT_SCALES else func


_GROUPED = getattr(torch.ops.aten, "_grouped_mm", object())  # older releases have none
_SHORT_SCALES = (
    torch.ops.aten.fake_quantize_per_channel_affine_cachemask.default,
    torch.ops.aten._fake_quantize_learnable_per_channel_affine.default,  # noqa: SLF001
)


def _with_short_scale(func: Any, x: Tensor, scale: Tensor, zero_point: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A fake quantization by channel, which takes float64 values but no float64 steps or origins."""
    origin = zero_point.float() if zero_point.is_floating_point() else zero_point
    return func(x, scale.float(), origin, *args, **kwargs)


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
