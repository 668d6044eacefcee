"""Attention by torch's own Python function: its checks of sizes and its split into heads are followed like any code."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.graph.nets import net
from torchpare import plan
from torchpare.graph import analyse


def attend(m, x, **more):
    x = m.embed(x).transpose(0, 1)
    mixed, _ = functional.multi_head_attention_forward(
        x, x, x, x.shape[-1], m.heads, m.packed.weight, m.packed.bias, None, None, False, 0.0,
        m.join.weight, m.join.bias, training=m.training, **more,
    )  # fmt: skip
    return m.head(x + mixed)


def model(width=16, heads=4, **more):
    return net(
        lambda m, x: attend(m, x, **more),
        embed=nn.Linear(5, width),
        packed=nn.Linear(width, 3 * width),
        join=nn.Linear(width, width),
        head=nn.Linear(width, 3),
        attributes={"heads": heads},
    )


@pytest.mark.parametrize("need_weights", [True, False])
def test_heads_and_width_follow_each_other(need_weights):
    small = model(need_weights=need_weights)
    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    report = plan(small, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    width = small.embed.out_features
    assert width < 16
    assert small.packed.weight.shape == (3 * width, width)
    assert width % small.heads == 0
    assert small(x).shape == (6, 2, 3)


def test_the_function_is_left_as_it_was():
    asked = functional.has_torch_function
    with pytest.raises(Exception, match="embedding dimension"):
        analyse(net(attend_wrongly, a=nn.Linear(5, 16)), torch.randn(2, 6, 5))
    assert functional.has_torch_function is asked


def attend_wrongly(m, x):
    x = m.a(x.to(m.a.weight))
    return functional.multi_head_attention_forward(
        x, x, x, 8, 2, x.new_ones(48, 16), None, None, None, False, 0.0, x.new_ones(16, 16), None, training=False
    )


def test_the_products_of_the_stock_class_are_not_taken_for_those_that_were_recorded():
    """With one head, no bias and time second, the stock class projects by a product of the scores' own shape."""

    def run(m, x):
        x = m.stem(x)
        return m.head(x + m.attention(x, x, x)[0])

    small = net(
        run,
        stem=nn.Linear(3, 4),
        attention=nn.MultiheadAttention(4, 1, batch_first=True, bias=False),
        head=nn.Linear(4, 3),
    )
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    report = plan(small, [{"sparsity": 0.25, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    assert small.stem.out_features == 3
