"""The pieces of which random networks on sequences are made: each maps (B, L, C) to (B, L', C').

Written the way people write transformers, mixtures, recurrent and convolutional nets on sequences: widths kept in
attributes or read off shapes, projections fused or apart. ``block.width`` is the number of channels that comes out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks.sequence_attention import ATTENTIONS

__all__ = ["SEQUENCE_BLOCKS"]


class Mlp(nn.Module):
    """Two linear layers, with a residual or none."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.residual = pick([True, False])
        inner, self.width = pick([5, 8]), c if self.residual else pick([4, 6])
        self.up, self.down = nn.Linear(c, inner, bias=pick([True, False])), nn.Linear(inner, self.width)
        self.act = pick([F.gelu, F.relu, torch.sigmoid, F.silu, torch.cos])
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.drop(self.act(self.up(x))))
        return x + y if self.residual else y


class GatedMlp(nn.Module):
    """A gate and a value from one projection or two."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.inner, self.width = pick([4, 6]), c
        self.how = pick(["chunk", "split", "shape", "glu", "two"])
        self.up = nn.Linear(c, self.inner if self.how == "two" else 2 * self.inner, bias=pick([True, False]))
        self.gate = nn.Linear(c, self.inner) if self.how == "two" else None
        self.down = nn.Linear(self.inner, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.gate is not None:
            return x + self.down(F.silu(self.gate(x)) * y)
        if self.how == "glu":
            return x + self.down(F.glu(y, dim=-1))
        if self.how == "chunk":
            a, b = y.chunk(2, dim=-1)
        elif self.how == "split":
            a, b = y.split([self.inner, self.inner], dim=-1)
        else:
            half = y.shape[-1] // 2
            a, b = y[..., :half], y[..., half:]
        return x + self.down(F.silu(a) * b)


class Norm(nn.Module):
    """A norm over the channels, of some kind."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = c
        self.how = pick(["layer", "rms", "written", "group", "batch", "bare"])
        if self.how == "layer":
            self.norm = nn.LayerNorm(c)
        elif self.how == "rms":
            self.norm = nn.RMSNorm(c, eps=1e-5)
        elif self.how == "group":
            self.norm = nn.GroupNorm(2 if c % 2 == 0 else 1, c)
        elif self.how == "batch":
            self.norm = nn.BatchNorm1d(c)
        else:
            self.weight = nn.Parameter(torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        if self.how in ("group", "batch"):
            return self.norm(x.transpose(1, 2)).transpose(1, 2)
        if self.how == "written":
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight
        if self.how == "bare":
            x = x - x.mean(-1, keepdim=True)
            return self.weight * F.normalize(x, dim=-1)
        return self.norm(x)


class Concat(nn.Module):
    """Two branches (or the input and a branch) laid end to end along the channels."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        a, b = pick([2, 3]), pick([2, 5])
        self.left, self.right = nn.Linear(c, a), nn.Linear(c, b)
        self.dense = pick([True, False])
        self.width = c + a if self.dense else a + b

    def forward(self, x: Tensor) -> Tensor:
        left = F.gelu(self.left(x))
        return torch.cat([x, left], dim=-1) if self.dense else torch.cat((left, self.right(x)), 2)


class Experts(nn.Module):
    """A mixture of experts, dense, by einsum or batched products; their weights lie in one tensor."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        experts, inner = pick([2, 3]), pick([8, 9])  # an einsum puts axes of size 1 elsewhere than others
        self.width = c
        self.router = nn.Linear(c, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, c, inner))
        self.down = nn.Parameter(torch.randn(experts, inner, c))
        self.einsum = pick([True, False])

    def forward(self, x: Tensor) -> Tensor:
        weight = self.router(x).softmax(-1)
        if self.einsum:
            y = torch.einsum("blc,ech->bleh", x, self.up).relu()
            return x + torch.einsum("bleh,ehc,ble->blc", y, self.down, weight)
        tokens = x.reshape(1, -1, x.shape[-1]).expand(self.up.shape[0], -1, -1)
        y = torch.bmm(torch.bmm(tokens, self.up).relu(), self.down)
        y = y.view(-1, *x.shape).permute(1, 2, 0, 3)
        return x + (y * weight.unsqueeze(-1)).sum(2)


class Recurrent(nn.Module):
    """LSTM, GRU or plain recurrence; stacked, in both directions."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        kind = pick([nn.LSTM, nn.GRU, nn.RNN])
        hidden, both = pick([3, 4]), pick([True, False])
        self.layer = kind(c, hidden, num_layers=pick([1, 2]), batch_first=True, bidirectional=both)
        self.width = hidden * (2 if both else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Conv(nn.Module):
    """A convolution along the sequence: plain, depthwise, grouped or causal."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.how = pick(["plain", "deep", "causal", "grouped"])
        self.width = c if self.how == "deep" else pick([4, 6])
        groups = c if self.how == "deep" else 2 if self.how == "grouped" and c % 2 == 0 else 1
        self.conv = nn.Conv1d(c, self.width, 3, padding=0 if self.how == "causal" else 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 1)
        if self.how == "causal":
            x = F.pad(x, (2, 0))
        return F.silu(self.conv(x)).mT


class Order(nn.Module):
    """The steps of the sequence, or the channels, in another order."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = c
        self.how = pick(sorted(ORDERINGS))
        self.register_buffer("order", torch.tensor([2, 0, 1, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return ORDERINGS[self.how](x, self.order)


ORDERINGS = {
    "index": lambda x, order: x[:, order],
    "index_select": lambda x, order: x.index_select(1, order),
    "gather": lambda x, order: x.gather(1, order[None, :, None].expand(x.shape[0], -1, x.shape[2])),
    "take_along_dim": lambda x, order: torch.take_along_dim(x, order[None, :, None], dim=1),
    "sort": lambda x, _: x.sort(dim=1).values,
    "flip": lambda x, _: x.flip(1),
    "flip channels": lambda x, _: x.flip(-1),
    "roll": lambda x, _: x.roll(1, dims=1),
    "roll channels": lambda x, _: x.roll(1, dims=-1),
}


class Copies(nn.Module):
    """Channels or steps several times over."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.how = pick(["repeat", "repeat steps", "repeat_interleave", "expand", "stack"])
        self.times = 2
        self.width = c if self.how in ("repeat steps", "stack") else c * self.times

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "repeat":
            return x.repeat(1, 1, self.times)
        if self.how == "repeat steps":
            return x.repeat(1, self.times, 1)
        if self.how == "repeat_interleave":
            return x.repeat_interleave(self.times, dim=-1)
        if self.how == "stack":
            return torch.stack((x, x.tanh()), dim=1).amax(1)
        return x.unsqueeze(2).expand(-1, -1, 2, -1).flatten(2)


class Positions(nn.Module):
    """A learned vector for all steps or for each, added or multiplied; a table that is longer than the sequence."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = c
        self.how = pick(["parameter", "embedding", "scale", "buffer"])
        self.table = nn.Parameter(torch.randn(1, 1, c)) if self.how == "parameter" else None
        self.embedding = nn.Embedding(32, c) if self.how == "embedding" else None
        self.scale = nn.Parameter(torch.randn(c)) if self.how == "scale" else None
        self.register_buffer("wave", torch.sin(torch.arange(32 * c).view(32, c) * 0.7))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if self.table is not None:
            return x + self.table.expand(-1, n, -1)
        if self.embedding is not None:
            return x + self.embedding(torch.arange(n, device=x.device))
        return x * self.scale if self.scale is not None else x + self.wave[:n]


class Mixer(nn.Module):
    """A linear layer over the channels with a gate of itself, cut at an attribute and laid together again."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.first, self.rest = pick([1, 2]), pick([2, 3])
        self.width = self.first + self.rest
        self.fc = nn.Linear(c, self.width)
        self.swap = pick([True, False])

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.fc(x), [self.first, self.rest], dim=-1)
        return torch.cat([b.tanh(), a], dim=-1) if self.swap else torch.cat([a, b.tanh()], dim=-1)


SEQUENCE_BLOCKS = (
    *ATTENTIONS,
    *(Mlp, GatedMlp, Norm, Concat, Experts, Recurrent, Conv, Order, Copies, Positions, Mixer),
)
