"""Multi-head attention whose heads may be fewer, and narrower, than its embedding is wide.

``torch.nn.MultiheadAttention`` computes the width of a head as ``embed_dim // num_heads`` and insists that the quotient
is whole, so that it cannot run with a head less than it was built with. The class here has its parameters under its
names, its arguments and its results, but believes its parameters: the projections are ``(heads * width, features)``,
whatever the number of features. A stock instance changes its class in place (`adopt`), and back (`release`) where its
sizes are again such as the stock class can have.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MultiheadAttention", "adopt", "is_stock", "release"]


class MultiheadAttention(nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` with any number of heads of any width.

    With ``H`` heads of width ``D`` for queries and keys and ``V`` for values, on ``E`` features: ``in_proj_weight`` is
    ``(2*H*D + H*V, E)``, or the three separate projections are ``(H*D, E)``, ``(H*D, K)`` and ``(H*V, W)``;
    ``in_proj_bias`` is ``(2*H*D + H*V,)``, ``bias_k`` ``(1, 1, H*D)``, ``bias_v`` ``(1, 1, H*V)`` and
    ``out_proj.weight`` ``(E, H*V)``. Nothing is read from ``embed_dim``, ``kdim`` and ``vdim``.

    Attributes:
        num_heads: number of heads, ``H``.
        head_dim: width of a head's queries and keys, ``D``.
        value_dim: width of a head's values, ``V``.
        scale: what the scores are multiplied by. It keeps the value it had when the heads had their first width, so
            that taking zero columns out of them does not change the function.

    The fused kernels of torch's fast path derive their sizes as the stock class does, so they are never used.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.
    """

    value_dim: int
    scale: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The stock constructor asks the property below what to build, and would be told wrong: build one, and be it.
        self.__dict__.update(vars(nn.MultiheadAttention(*args, **kwargs)))
        self.value_dim = self.head_dim
        self.scale = self.head_dim**-0.5

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False: this is what torch asks before it takes its fast path. We ask the parameters instead."""
        return False

    def _reset_parameters(self) -> None:
        weights = (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        for weight in weights:
            if weight is not None:
                nn.init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                nn.init.xavier_normal_(bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results are those of ``torch.nn.MultiheadAttention.forward``.

        Returns:
            the output, shaped like ``query``, and with ``need_weights`` the attention weights: ``(B, L, S)``, or
            ``(B, H, L, S)`` where they are not averaged over the heads.

        Raises:
            RuntimeError: if shapes do not fit together, or ``is_causal`` is said without an ``attn_mask``.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            if not (query is key is value) or key_padding_mask is not None or attn_mask is not None:
                message = "nested tensors are understood in self-attention without masks only; pad them"
                raise RuntimeError(message)
            return self._attend_nested(query, need_weights, average_attn_weights)
        if is_causal and attn_mask is None:
            message = "is_causal is a hint about attn_mask, so attn_mask must be given with it"
            raise RuntimeError(message)
        batched = query.dim() == 3
        _check_shapes(query, key, value, key_padding_mask)
        itself = query is key is value
        query, key, value = (self._batch_first(tensor, batched) for tensor in (query, key, value))
        q, k, v = self._project_packed(query) if itself else self._project(query, key, value)
        hint = is_causal and key_padding_mask is None and not need_weights
        mask = None if hint else self._mask(q, k, key_padding_mask, attn_mask)
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.size(0), -1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.expand(v.size(0), -1, -1)], dim=1)
            added += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            added += 1
        if mask is not None and added:
            mask = F.pad(mask, (0, added))
        q = q.view(q.size(0), q.size(1), self.num_heads, self.head_dim).transpose(1, 2)
        k = k.view(k.size(0), k.size(1), self.num_heads, self.head_dim).transpose(1, 2)
        v = v.view(v.size(0), v.size(1), self.num_heads, self.value_dim).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            heads = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            heads = F.scaled_dot_product_attention(q, k, v, mask, dropout, hint, scale=self.scale)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _batch_first(self, tensor: Tensor, batched: bool) -> Tensor:
        if not batched:
            return tensor.unsqueeze(0)
        return tensor if self.batch_first else tensor.transpose(0, 1)

    def _pieces(self) -> list[int]:
        keys = self.num_heads * self.head_dim
        return [keys, keys, self.num_heads * self.value_dim]

    def _project_packed(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of one tensor: one product where the projections are packed."""
        if self.in_proj_weight is None:
            return self._project(x, x, x)
        return F.linear(x, self.in_proj_weight, self.in_proj_bias).split(self._pieces(), dim=-1)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of three tensors."""
        weights: tuple[Tensor, ...] = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.split(self._pieces())
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.split(self._pieces())
        inputs = (query, key, value)
        return tuple(F.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, biases, strict=True))

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, attention: Tensor | None) -> Tensor | None:
        """What is added to the scores, ``(B or 1, H or 1, L or 1, S)``; None where no mask was given."""
        batch, length, keys = q.size(0), q.size(1), k.size(1)
        mask = None
        if attention is not None:
            expected = (length, keys) if attention.dim() == 2 else (batch * self.num_heads, length, keys)
            if tuple(attention.shape) != expected:
                message = (
                    f"attn_mask is {tuple(attention.shape)}; it must be (queries, keys), here {(length, keys)}, or "
                    f"(batch * heads, queries, keys), here {(batch * self.num_heads, length, keys)}"
                )
                raise RuntimeError(message)
            mask = _additive(attention, q.dtype)
            mask = mask.view(batch, self.num_heads, length, keys) if mask.dim() == 3 else mask[None, None]
        if padding is not None:
            if padding.dim() == 1:
                padding = padding.unsqueeze(0)
            if tuple(padding.shape) != (batch, keys):
                message = f"key_padding_mask is {tuple(padding.shape)}; it must be {(batch, keys)}"
                raise RuntimeError(message)
            extra = _additive(padding, q.dtype)[:, None, None]
            mask = extra if mask is None else mask + extra
        return mask

    def _attend_nested(self, x: Tensor, need_weights: bool, average: bool) -> tuple[Tensor, Tensor | None]:
        """Self-attention over sequences of several lengths.

        ``nn.TransformerEncoder`` packs padded batches like this in evaluation mode, on the strength of what its layers
        were like when it was built.
        """
        lengths = [row.size(0) for row in x.unbind()]
        padded = torch.nested.to_padded_tensor(x, 0.0)
        ends = torch.tensor(lengths, device=padded.device)
        padding = torch.arange(padded.size(1), device=padded.device) >= ends[:, None]
        output, weights = self(padded, padded, padded, padding, need_weights, None, average)
        rows = [row[:length] for row, length in zip(output, lengths, strict=True)]
        return torch.nested.as_nested_tensor(rows), weights


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None) -> None:
    rank = query.dim()
    if rank not in (2, 3) or key.dim() != rank or value.dim() != rank:
        message = (
            f"query, key and value must all have 2 axes, or 3 with a batch; got {rank}, {key.dim()}, {value.dim()}"
        )
        raise RuntimeError(message)
    if key.shape[:-1] != value.shape[:-1]:
        message = f"keys {tuple(key.shape)} and values {tuple(value.shape)} must be equally many"
        raise RuntimeError(message)
    if padding is not None and padding.dim() != rank - 1:
        message = f"key_padding_mask has {padding.dim()} axes; with a query of {rank} axes it must have {rank - 1}"
        raise RuntimeError(message)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added to scores: where a bool mask says True, nothing is attended to."""
    if mask.is_floating_point():
        return mask
    if mask.dtype != torch.bool:
        message = f"a mask is bool or floating, got {mask.dtype}"
        raise RuntimeError(message)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def adopt(module: nn.MultiheadAttention) -> None:
    """Change the class of a stock attention in place; parameters, buffers, hooks and function stay.

    Args:
        module: an instance of ``torch.nn.MultiheadAttention`` itself, not of a subclass with a forward of its own.

    Raises:
        TypeError: if it is of any other class.
    """
    if type(module) is not nn.MultiheadAttention:
        message = f"only torch.nn.MultiheadAttention itself can be adopted, got {type(module).__qualname__}"
        raise TypeError(message)
    module.__class__ = MultiheadAttention
    assert isinstance(module, MultiheadAttention)  # for the type checker
    module.value_dim = module.head_dim
    module.scale = module.head_dim**-0.5


def is_stock(module: MultiheadAttention) -> bool:
    """Whether ``torch.nn.MultiheadAttention`` could have these sizes, and would compute the same with them."""
    width = module.out_proj.weight.shape[0]
    queries = module.q_proj_weight if module.in_proj_weight is None else module.in_proj_weight
    return (
        module.num_heads * module.head_dim == width
        and module.value_dim == module.head_dim
        and math.isclose(module.scale, module.head_dim**-0.5)
        and queries.shape[1] == width
    )


def release(module: MultiheadAttention) -> None:
    """The reverse of `adopt`: the stock class again, with ``embed_dim``, ``kdim`` and ``vdim`` as they now are.

    Raises:
        ValueError: if the stock class cannot have these sizes (`is_stock`).
    """
    if not is_stock(module):
        message = (
            f"torch.nn.MultiheadAttention cannot have {module.num_heads} heads of width {module.head_dim} (values: "
            f"{module.value_dim}, scale: {module.scale:.4g}) on {module.out_proj.weight.shape[0]} features; "
            f"leave the module as it is"
        )
        raise ValueError(message)
    packed = module.in_proj_weight is not None
    module.embed_dim = module.out_proj.weight.shape[0]
    module.kdim = module.embed_dim if packed else module.k_proj_weight.shape[1]
    module.vdim = module.embed_dim if packed else module.v_proj_weight.shape[1]
    module.__dict__["_qkv_same_embed_dim"] = packed  # what the stock forward decides by
    del module.value_dim, module.scale
    module.__class__ = nn.MultiheadAttention  # pyright: ignore[reportAttributeAccessIssue]
