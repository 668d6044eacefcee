"""Hand-written attention: fused projections in three layouts, shared key heads, rotations, biases, pooling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["ATTENTION"]

_HEADS, _WIDTH, _HIDDEN = 4, 6, 20  # heads x width is 24: not the hidden size


class FusedAttention(nn.Module):
    """One projection for queries, keys and values, cut in the given order.

    Args:
        order: `3hd` holds all queries first, `h3d` one head after the other, `hd3` the three side by side.
        scale: `source` writes the scale of the scores with the width that is seen; `attribute` stores it; `default`
            leaves it to torch.
    """

    def __init__(self, order: str, scale: str) -> None:
        super().__init__()
        self.order, self.scale_of = order, scale
        self.num_heads, self.head_dim = _HEADS, _WIDTH
        self.scale = self.head_dim**-0.5
        self.enter = nn.Linear(7, _HIDDEN)
        self.qkv = nn.Linear(_HIDDEN, 3 * _HEADS * _WIDTH)
        self.out = nn.Linear(_HEADS * _WIDTH, _HIDDEN)
        self.head = nn.Linear(_HIDDEN, 5)

    def _cut(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, _ = qkv.shape
        if self.order == "3hd":
            q, k, v = qkv.reshape(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        elif self.order == "h3d":
            q, k, v = qkv.view(batch, length, self.num_heads, 3 * self.head_dim).transpose(1, 2).chunk(3, dim=-1)
        else:
            q, k, v = qkv.view(batch, length, self.num_heads, self.head_dim, 3).permute(4, 0, 2, 1, 3).unbind(0)
        return q, k, v

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, 7) to (B, L, 5)."""
        x = self.enter(tokens)
        q, k, v = self._cut(self.qkv(x))
        if self.scale_of == "default":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scale = self.scale if self.scale_of == "attribute" else 1 / math.sqrt(q.size(-1))
            mixed = torch.softmax(q @ k.transpose(-2, -1) * scale, dim=-1) @ v
        return self.head(x + self.out(mixed.transpose(1, 2).flatten(2)))


class GroupedAttention(nn.Module):
    """Two key heads for four query heads, repeated or expanded."""

    def __init__(self, *, expand: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width, self.expand = _HEADS, 2, _WIDTH, expand
        self.enter = nn.Embedding(23, _HIDDEN)
        self.q = nn.Linear(_HIDDEN, _HEADS * _WIDTH, bias=False)
        self.k = nn.Linear(_HIDDEN, 2 * _WIDTH, bias=False)
        self.v = nn.Linear(_HIDDEN, 2 * _WIDTH, bias=False)
        self.out = nn.Linear(_HEADS * _WIDTH, _HIDDEN, bias=False)
        self.head = nn.Linear(_HIDDEN, 23)

    def _widened(self, x: Tensor) -> Tensor:
        times = self.heads // self.kv_heads
        if not self.expand:
            return x.repeat_interleave(times, dim=1)
        batch, heads, length, width = x.shape
        return x[:, :, None].expand(batch, heads, times, length, width).reshape(batch, heads * times, length, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids to (B, L, 23)."""
        x = self.enter(tokens)
        batch, length = tokens.shape
        q = self.q(x).view(batch, length, self.heads, self.width).transpose(1, 2)
        k = self._widened(self.k(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2))
        v = self._widened(self.v(x).view(batch, length, self.kv_heads, self.width).transpose(1, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        return self.head(x + self.out(mixed.reshape(batch, length, self.heads * self.width)))


class RotaryAttention(nn.Module):
    """Positions as rotations: of the two halves of each head, or of neighbours."""

    frequencies: Tensor

    def __init__(self, *, interleaved: bool) -> None:
        super().__init__()
        self.heads, self.width, self.interleaved = _HEADS, _WIDTH, interleaved
        self.enter = nn.Linear(7, _HIDDEN)
        self.q, self.k, self.v = (nn.Linear(_HIDDEN, _HEADS * _WIDTH) for _ in range(3))
        self.out = nn.Linear(_HEADS * _WIDTH, 5)
        self.register_buffer("frequencies", 100.0 ** (-torch.arange(0, _WIDTH, 2).float() / _WIDTH), persistent=False)

    def _rotated(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[-2]).to(x)[:, None] * self.frequencies
        if self.interleaved:
            cos, sin = angles.cos(), angles.sin()
            even, odd = x[..., 0::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
        cos, sin = torch.cat([angles, angles], dim=-1).cos(), torch.cat([angles, angles], dim=-1).sin()
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, 7) to (B, L, 5)."""
        x = self.enter(tokens)
        shape = (*x.shape[:-1], -1, self.width)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        scores = torch.einsum("bhid,bhjd->bhij", self._rotated(q), self._rotated(k)) * self.width**-0.5
        mixed = torch.einsum("bhij,bhjd->bihd", scores.softmax(-1), v)
        return self.out(mixed.flatten(2))


class RelativeBias(nn.Module):
    """A table of biases for each distance and head, read through a buffer of indices."""

    distance: Tensor

    def __init__(self, length: int = 7) -> None:
        super().__init__()
        self.heads = _HEADS
        self.qkv = nn.Linear(7, 3 * _HEADS * _WIDTH)
        self.table = nn.Parameter(torch.randn(2 * length - 1, _HEADS))
        distance = torch.arange(length)[:, None] - torch.arange(length)[None] + length - 1
        self.register_buffer("distance", distance)
        self.out = nn.Linear(_HEADS * _WIDTH, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 7, 7) to (B, 7, 5)."""
        batch, length, _ = tokens.shape
        q, k, v = self.qkv(tokens).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.distance.view(-1)].view(length, length, -1).permute(2, 0, 1).contiguous()
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1))


class CausalMask(nn.Module):
    """A lower triangle kept as a boolean buffer hides what comes later."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.heads = _HEADS
        self.embed = nn.Embedding(23, _HEADS * _WIDTH)
        self.qkv = nn.Linear(_HEADS * _WIDTH, 3 * _HEADS * _WIDTH, bias=False)
        self.out = nn.Linear(_HEADS * _WIDTH, 23)
        self.register_buffer("seen", torch.ones(9, 9, dtype=torch.bool).tril().view(1, 1, 9, 9))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids to (B, L, 23)."""
        x = self.embed(tokens)
        batch, length, hidden = x.shape
        q, k, v = self.qkv(x).split(hidden, dim=2)
        q, k, v = (t.view(batch, length, self.heads, hidden // self.heads).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(~self.seen[:, :, :length, :length], float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).contiguous().view(batch, length, hidden)
        return self.out(x + mixed)


class LearnedQueries(nn.Module):
    """Three learned queries read the tokens; a class token and positions are raw parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, _HIDDEN)
        self.cls = nn.Parameter(torch.randn(1, 1, _HIDDEN))
        self.positions = nn.Parameter(torch.randn(1, 8, _HIDDEN))
        self.queries = nn.Parameter(torch.randn(3, 12))
        self.key = nn.Linear(_HIDDEN, 12)
        self.value = nn.Linear(_HIDDEN, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 7, 7) to (B, 3, 5) and the attention (B, 3, 8)."""
        x = self.embed(tokens)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        scores = torch.matmul(self.queries, self.key(x).transpose(1, 2)).softmax(-1)
        return self.head(F.relu(scores @ self.value(x))), scores


class AttentionPooling(nn.Module):
    """Tokens summed by weights that are computed from them, padding excluded."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.score = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 1))
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, L, 7) and (B, L) booleans to (B, 5)."""
        x = F.relu(self.enter(tokens))
        weights = self.score(x).squeeze(-1).masked_fill(~real, -1e9).softmax(1)
        return self.head((x * weights.unsqueeze(-1)).sum(1))


ATTENTION: dict[str, Builder] = {
    "qkv-3hd": lambda g: (FusedAttention("3hd", "source"), normal(g, 2, 9, 7)),
    "qkv-3hd-sdpa": lambda g: (FusedAttention("3hd", "default"), normal(g, 2, 9, 7)),
    "qkv-h3d": lambda g: (FusedAttention("h3d", "attribute"), normal(g, 2, 9, 7)),
    "qkv-hd3": lambda g: (FusedAttention("hd3", "source"), normal(g, 2, 9, 7)),
    "grouped-query-repeat": lambda g: (
        GroupedAttention(expand=False),
        torch.randint(0, 23, (2, 9), generator=g),
    ),
    "grouped-query-expand": lambda g: (GroupedAttention(expand=True), torch.randint(0, 23, (2, 9), generator=g)),
    "rotary-halves": lambda g: (RotaryAttention(interleaved=False), normal(g, 2, 9, 7)),
    "rotary-interleaved": lambda g: (RotaryAttention(interleaved=True), normal(g, 2, 9, 7)),
    "relative-bias-table": lambda g: (RelativeBias(), normal(g, 2, 7, 7)),
    "causal-mask-buffer": lambda g: (CausalMask(), torch.randint(0, 23, (2, 8), generator=g)),
    "learned-queries": lambda g: (LearnedQueries(), normal(g, 2, 7, 7)),
    "attention-pooling": lambda g: (
        AttentionPooling(),
        (normal(g, 2, 9, 7), torch.tensor([[True] * 9, [True] * 6 + [False] * 3])),
    ),
}
