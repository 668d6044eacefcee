"""Attention by torch's own Python function: its checks of sizes and its split into heads are followed like any code."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from tests.graph.nets import net
from torchpare import load, plan, save
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


class Gated(nn.MultiheadAttention):
    """Adds something to what its parent does."""

    def forward(self, *args, **options):
        mixed, weights = super().forward(*args, **options)
        return mixed.tanh(), weights


class Copied(nn.MultiheadAttention):
    """Says itself what its parent would."""

    def forward(self, x, *_):
        q, k, v = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for t in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out_proj(mixed.reshape(*x.shape[:2], self.embed_dim)), None


def mixing(m, x):
    x = m.embed(x)
    return m.head(x + m.attend(x, x, x)[0])


@pytest.mark.parametrize("kind", [Gated, Copied])
def test_a_class_made_of_the_stock_one_keeps_its_class_and_gets_narrower(kind):
    attend = kind(16, 4, batch_first=True)
    small = net(mixing, embed=nn.Linear(5, 16), attend=attend, head=nn.Linear(16, 3))
    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    report = plan(small, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    width = small.embed.out_features
    assert type(attend) is kind
    assert width < 16
    assert attend.embed_dim == width
    assert attend.in_proj_weight.shape == (3 * width, width)
    assert small(x).shape == (2, 6, 3)


@pytest.mark.parametrize("kind", [Gated, nn.MultiheadAttention])
def test_an_attention_that_reads_more_than_it_makes_is_saved_and_loaded(kind, tmp_path):
    def build():
        layers = {"embed": nn.Linear(5, 16), "attend": kind(16, 1, batch_first=True), "head": nn.Linear(16, 3)}
        return net(lambda m, x: m.head(m.attend(*3 * [m.embed(x)])[0]), **layers)

    small, x = build(), torch.randn(2, 6, 5, dtype=torch.float64)
    plan(small, [{"sparsity": 0.5, "structures": ["all"], "op_names": ["attend.out_proj"]}], x).apply()
    assert small.attend.out_proj.out_features == 8
    assert small.attend.in_proj_weight.shape[1] == 16
    save(small, tmp_path / "small.safetensors")
    assert torch.equal(load(build(), tmp_path / "small.safetensors")(x), small(x))


def test_a_weight_of_an_attention_that_is_worked_out_anew_gets_narrower():
    attend = spectral_norm(nn.MultiheadAttention(16, 4, batch_first=True), "in_proj_weight")
    small = net(mixing, embed=nn.Linear(5, 16), attend=attend, head=nn.Linear(16, 3))
    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    report = plan(small, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    assert small.embed.out_features < 16
