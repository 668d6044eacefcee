"""Attention as people write it, for random networks on sequences: (B, L, C) to (B, L, C').

The ways in which queries, keys and values lie in one projection, share heads, and are turned by their positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ATTENTIONS", "ORDERS"]

ORDERS = ["3HD", "H3D", "chunk", "split"]
"""How `Fused` lays out its rows; "HD3" is the fourth of the usual ways, and one that it knows too."""


class Attention(nn.Module):
    """What all kinds share: the product, the way back, a residual or none."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.heads, self.head_dim = pick([1, 2, 3]), pick([2, 4])
        self.inner = self.heads * self.head_dim
        self.scale = 0.6
        self.kernel = pick(["sdpa", "default", "causal", "matmul", "divided"])
        self.residual = pick([True, False])
        self.width = c if self.residual else pick([4, 6])
        self.out = nn.Linear(self.inner, self.width, bias=pick([True, False]))
        self.join = pick(["reshape", "flatten", "attribute"])
        self.make(c, pick)

    def make(self, c: int, pick) -> None:
        raise NotImplementedError

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as (B, heads, L, head_dim)."""
        raise NotImplementedError

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.kernel == "default":
            return F.scaled_dot_product_attention(q, k, v)
        if self.kernel == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        if self.kernel == "causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        if self.kernel == "divided":
            return torch.softmax(q @ k.mT / self.head_dim**0.5, dim=-1) @ v
        return torch.matmul((torch.matmul(q, k.transpose(-2, -1)) * self.scale).softmax(-1), v)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attend(*self.project(x)).transpose(1, 2)
        if self.join == "reshape":
            y = y.reshape(x.shape[0], x.shape[1], -1)
        elif self.join == "flatten":
            y = y.flatten(2)
        else:
            y = y.contiguous().view(*x.shape[:2], self.heads * self.head_dim)
        y = self.out(y)
        return x + y if self.residual else y


class Fused(Attention):
    """One projection; its rows are ordered (3, H, D), (H, 3, D) or (H, D, 3)."""

    def make(self, c: int, pick) -> None:
        self.qkv = nn.Linear(c, 3 * self.inner, bias=pick([True, False]))
        self.order = pick(ORDERS)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        y = self.qkv(x)
        if self.order == "3HD":
            q, k, v = y.reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        elif self.order == "H3D":
            q, k, v = y.view(b, n, self.heads, 3, self.head_dim).permute(3, 0, 2, 1, 4).unbind(0)
        elif self.order == "HD3":
            q, k, v = y.view(b, n, self.heads, self.head_dim, 3).permute(4, 0, 2, 1, 3).unbind(0)
        else:
            parts = y.chunk(3, dim=-1) if self.order == "chunk" else y.split(self.inner, dim=2)
            q, k, v = (part.view(b, n, self.heads, -1).transpose(1, 2) for part in parts)
        return q, k, v


class Separate(Attention):
    """Three projections; sizes from the number of heads, the width of a head, or both."""

    def make(self, c: int, pick) -> None:
        self.q, self.k, self.v = (
            nn.Linear(c, self.inner),
            nn.Linear(c, self.inner, bias=False),
            nn.Linear(c, self.inner),
        )
        self.how = pick(["heads", "width", "both", "unflatten"])

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))

    def split(self, y: Tensor) -> Tensor:
        b, n, c = y.shape
        if self.how == "heads":
            y = y.view(b, n, self.heads, c // self.heads)
        elif self.how == "width":
            y = y.view(b, n, -1, self.head_dim)
        elif self.how == "both":
            y = y.view((b, n, self.heads, self.head_dim))
        else:
            y = y.unflatten(-1, (self.heads, self.head_dim))
        return y.permute(0, 2, 1, 3)


class Grouped(Attention):
    """Fewer keys and values than queries, each shared by a group of heads; turned by their positions or not."""

    def make(self, c: int, pick) -> None:
        self.shared = pick([1, 2, 2])
        self.kv_heads, self.heads = self.heads, self.heads * self.shared
        self.q, self.k, self.v = (nn.Linear(c, h * self.head_dim) for h in (self.heads, self.kv_heads, self.kv_heads))
        self.out = nn.Linear(self.heads * self.head_dim, self.width, bias=False)
        self.how = pick(["expand", "repeat_interleave", "repeat"])
        self.rotary = pick([True, False])
        half = self.head_dim // 2
        self.register_buffer("frequency", torch.arange(1, half + 1) / half)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, self.head_dim).transpose(1, 2)
        k = self.k(x).view(b, n, -1, self.head_dim).transpose(1, 2)
        v = self.v(x).view(b, n, -1, self.head_dim).transpose(1, 2)
        if self.rotary:
            angle = torch.arange(n, device=x.device).to(x)[:, None] * self.frequency
            angle = torch.cat([angle, angle], dim=-1)
            q, k = (z * angle.cos() + _rotate_half(z) * angle.sin() for z in (q, k))
        return q, self.share(k), self.share(v)

    def share(self, z: Tensor) -> Tensor:
        if self.how == "repeat_interleave":
            return z.repeat_interleave(self.shared, dim=1)
        b, h, n, d = z.shape
        if self.how == "repeat":
            return z.unsqueeze(2).repeat(1, 1, self.shared, 1, 1).reshape(b, h * self.shared, n, d)
        return z[:, :, None].expand(b, h, self.shared, n, d).reshape(b, h * self.shared, n, d)


def _rotate_half(z: Tensor) -> Tensor:
    half = z.shape[-1] // 2
    return torch.cat((-z[..., half:], z[..., :half]), dim=-1)


class Stock(nn.Module):
    """`nn.MultiheadAttention`, with a residual or none."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = c
        heads = next(h for h in (pick([1, 2, 3]), 2, 1) if c % h == 0)
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True, bias=pick([True, False]))
        self.need_weights = pick([True, False])
        self.residual = pick([True, False])

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=self.need_weights)
        return x + y if self.residual else y


class Linearised(nn.Module):
    """Attention without a softmax: keys and values are summed over the sequence first."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        # An einsum puts axes of size 1 elsewhere than others: here none shrinks to that.
        self.einsum = pick([True, False])
        self.heads, wide, self.width = 5 if self.einsum else pick([1, 2]), 8 if self.einsum else 4, c
        self.qk = nn.Linear(c, 2 * wide * self.heads)
        self.v = nn.Linear(c, wide * self.heads)
        self.out = nn.Linear(wide * self.heads, c)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k = (F.elu(y.reshape(b, n, self.heads, -1)) for y in self.qk(x).chunk(2, -1))
        v = self.v(x).reshape(b, n, self.heads, -1)
        if self.einsum:
            memory = torch.einsum("bnhd,bnhe->bhde", k, v)
            y = torch.einsum("bnhd,bhde->bnhe", q, memory)
        else:
            q, k, v = (z.transpose(1, 2) for z in (q, k, v))
            y = (q @ (k.mT @ v)).transpose(1, 2)
        return x + self.out(y.reshape(b, n, -1))


ATTENTIONS = (Fused, Separate, Grouped, Stock, Linearised)
