"""A mixture whose experts run together, in one grouped matrix product."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Experts", "network"]


class Experts(nn.Module):
    """Tokens sorted by expert, a gated unit for each, and back: what libraries do to keep a GPU busy."""

    def __init__(self, width=32, inner=40, experts=3):
        super().__init__()
        self.count, self.inner = experts, inner
        self.gate = nn.Linear(width, experts)
        self.up = nn.Parameter(0.2 * torch.randn(experts, 2 * inner, width))
        self.down = nn.Parameter(0.2 * torch.randn(experts, width, inner))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        expert, order = chosen.reshape(-1).sort()
        ends = torch.histc(expert.float(), self.count, 0, self.count - 1).cumsum(0).to(torch.int32)
        rows = x[order // 2]
        gate, up = torch._grouped_mm(rows, self.up.transpose(-2, -1), offs=ends).chunk(2, -1)
        rows = torch._grouped_mm(gate.sigmoid() * up, self.down.transpose(-2, -1), offs=ends)
        rows = rows * weights.reshape(-1)[order, None]
        return torch.zeros_like(x).index_add(0, order // 2, rows)


def network(**sizes):
    torch.manual_seed(0)
    width = sizes.get("width", 32)
    return nn.Sequential(nn.Linear(6, width), Experts(**sizes), nn.Linear(width, 5)).eval(), torch.randn(10, 6)
