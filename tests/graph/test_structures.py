"""Every group of channels goes by the word that people use for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.attention import tokens
from torchpare.graph import analyse
from torchpare.graph.structures import STRUCTURES, groups_of
from torchpare.layers import MultiheadAttention


class Experts(nn.Module):
    """Weights of all experts in one tensor."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 12), nn.Linear(12, 3)
        self.up, self.down = nn.Parameter(torch.randn(4, 12, 20)), nn.Parameter(torch.randn(4, 20, 12))

    def forward(self, x):
        x = self.enter(x)
        hidden = torch.einsum("nc,ecd->end", x, self.up).relu()
        return self.leave(torch.einsum("end,edc->nc", hidden, self.down))


class Heard(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 12), nn.Linear(12, 3)
        self.layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)

    def forward(self, x):
        return self.leave(self.layer(self.enter(x)))


class WidthInCode(nn.Module):
    """Attention whose code says the width of a head, and lets the number of heads follow."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.leave = nn.Linear(12, 3)

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = (layer(x).view(n, length, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return self.leave(self.out(mixed.transpose(1, 2).reshape(n, length, -1)))


CASES = {
    "tokens": (lambda: tokens(blocks=1), {"embedding": 20, "heads": 4, "head_dim": 6, "mlp": 28}),
    "width in code": (lambda: (WidthInCode(), torch.randn(2, 5, 12)), {"heads": 3, "mlp": 12}),
    "experts": (lambda: (Experts(), torch.randn(2, 5)), {"mlp": 12, "experts": 4, "experts_width": 20}),
    "recurrent": (lambda: (Heard(), torch.randn(2, 4, 5)), {"hidden": 8}),
    "stock attention": (
        lambda: (Encoder(), torch.randn(2, 4, 5)),
        {"embedding": 12, "heads": 3, "head_dim": 4, "mlp": 20},
    ),
    "grouped convolution": (
        lambda: (
            nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1, groups=3), nn.Conv2d(12, 2, 1)),
            torch.randn(1, 3, 4, 4),
        ),
        {"groups": 3, "channels": 4},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_groups_are_called_what_they_are(name):
    build, expected = CASES[name]
    model, x = build()
    groups = groups_of(analyse(model.eval(), x))
    assert {group.kind: group.size for group in groups} == expected
    assert expected.keys() <= STRUCTURES.keys()
    first = [group.members[0][0] for group in groups]
    order = [name for name, _ in model.named_parameters()]
    assert [order.index(name) for name in first] == sorted(order.index(name) for name in first)


def test_stock_attention_is_analysed_by_the_class_that_can_lose_heads_and_stays_stock_itself():
    model = Encoder().eval()
    space = analyse(model, torch.randn(2, 4, 5))
    assert not space.unknown
    assert type(model.layer.self_attn) is nn.MultiheadAttention
    assert not isinstance(model.layer.self_attn, MultiheadAttention)
