"""Attention as the two products and the softmax that it is, for operator sets that do not have it as one operator.

torch's exporter writes it out too, in a form that costs more: with a factor for the queries and one for the keys, a
transposition by way of three axes, and a search for NaN in all the shares wherever there is a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["WRITTEN_OUT", "SeesAttention"]


class SeesAttention(TorchFunctionMode):
    """Notices whether what runs inside attends: ``attention`` is True then."""

    attention = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and look at its name."""
        name = str(getattr(func, "__name__", func))
        self.attention |= "attention" in name or "transformer_encoder_layer" in name
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(query @ key.T * scale + mask) @ value``, in evaluation: without dropout.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 1; the mask as torch defines it: what is True
    takes part, and a row in which nothing does is zero.

    Args:
        query: ``(..., heads, L, E)``.
        key: ``(..., key heads, S, E)``.
        value: ``(..., key heads, S, Ev)``.
        attn_mask: broadcast to ``(..., heads, L, S)``; bool, or what is added.
        dropout_p: not used.
        is_causal: each position sees itself and what is before it.
        scale: ``1 / sqrt(E)`` if None.
        enable_gqa: several heads share one of keys and values.
    """
    del dropout_p
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if query.dtype in (torch.float32, torch.float64):  # a factor of the scores costs nothing where runtimes fuse it
        scores = torch.matmul(query, key.transpose(-2, -1)) * factor
    else:  # they could be too large for half precision
        scores = torch.matmul(query * factor, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is None:
        return torch.matmul(scores.softmax(-1), value)
    if attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
        alone = attn_mask.any(-1, keepdim=True).logical_not()
    else:
        scores = scores + attn_mask
        alone = (attn_mask == -math.inf).all(-1, keepdim=True)
    return torch.matmul(scores.softmax(-1).masked_fill(alone, 0.0), value)


WRITTEN_OUT: Final[Mapping[Any, Callable[..., Any]]] = {torch.ops.aten.scaled_dot_product_attention.default: _attention}
"""What ``ExportedProgram.run_decompositions`` takes to write attention out."""
