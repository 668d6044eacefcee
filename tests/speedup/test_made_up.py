"""Where fewer channels would change the function, and a weight, an epsilon or a factor makes up for it exactly."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchpare
from tests.networks.oracles import exact_output, relative
from tests.support.attention import RMSNorm, tokens
from torchpare import plan
from torchpare.speedup.rms_norms import RmsNorm, new_weight

WIDTH = [{"sparsity": 0.5, "structures": ["embedding"]}]


def zeroed(model, found):
    """The dense model with zeros in every entry that goes, in float64: an RMS norm over it divides by all channels."""
    twin = copy.deepcopy(model).double()
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for name, cut in found.shrink.cuts.items():
            for mask in cut.axes if name in parameters else ():
                parameters[name].mul_(torch.from_numpy(mask))
    return twin


def test_the_formula_of_the_new_weight():
    torch.manual_seed(0)
    x, weight, eps = torch.randn(5, 12, dtype=torch.float64), torch.rand(12, dtype=torch.float64), 0.3
    x[:, 7:] = 0  # what goes
    dense = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight
    norm = RmsNorm("", "eps", "weight", 0, 12, 7, 0)
    small = x[:, :7] / (x[:, :7].pow(2).mean(-1, keepdim=True) + eps * 12 / 7).sqrt() * new_weight(weight, norm)[:7]
    torch.testing.assert_close(small, dense[:, :7], rtol=1e-14, atol=1e-14)
    one_more = RmsNorm("", "eps", "weight", 1, 12, 7, 0)
    torch.testing.assert_close(new_weight(weight, one_more) + 1, (weight + 1) * (12 / 7) ** 0.5)


class OneMore(RMSNorm):
    """The weight counts from one."""

    def forward(self, x):
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight)).type_as(x)


@pytest.mark.parametrize("norm", [RMSNorm, OneMore])
def test_rms_norms_keep_the_function_of_the_model_with_zeros(norm):
    model, x = tokens(norm)
    dense = copy.deepcopy(model)
    found = plan(model, WIDTH, x)
    with torch.no_grad():
        reference = zeroed(dense, found)(x)
    report = found.apply()
    assert report.exact, str(report)
    assert report.largest_difference <= 1e-10
    assert report.output_change > 1e-2
    assert len(report.rescaled) == 7
    assert model.norm.eps == pytest.approx(0.2)
    assert relative(reference, exact_output(model, x)) < 1e-6  # the new weights are rounded to float32
    assert "rescaled" in str(plan(dense, WIDTH, x))


def test_epsilons_come_back_from_a_file(tmp_path):
    model, x = tokens()
    plan(model, WIDTH, x).apply()
    torchpare.save(model, tmp_path / "small.safetensors")
    fresh = torchpare.load(tokens()[0], tmp_path / "small.safetensors")
    assert fresh.norm.eps == model.norm.eps
    assert torch.equal(fresh(x), model(x))


def test_a_norm_over_channels_that_are_not_zero_is_named_instead():
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(7, 12), RMSNorm(12), nn.Linear(12, 5)

        def forward(self, x):
            return self.b(self.norm(torch.sigmoid(self.a(x))))  # a removed channel is one half

    torch.manual_seed(0)
    model, x = Loud().eval(), torch.randn(3, 7)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert not report.exact
    assert [change.kind for change in report.changes] == ["mean over the pruned axis"]
    assert report.largest_difference <= 1e-10
    assert model.norm.eps == 0.1


def test_queries_make_up_for_the_default_scale():
    model, x = tokens()
    dense = copy.deepcopy(model)
    found = plan(model, [{"sparsity": 0.5, "structures": ["head_dim"]}], x)
    report = found.apply()
    assert report.exact
    assert report.largest_difference <= 1e-10
    kept = found.shrink.cuts["layers.0.qkv.weight"]
    plain = kept.apply(dense.layers[0].qkv.weight.detach())
    third = len(plain) // 3
    factor = (3 / 6) ** 0.5
    torch.testing.assert_close(model.layers[0].qkv.weight[:third], plain[:third] * factor)
    assert torch.equal(model.layers[0].qkv.weight[third:], plain[third:])


class Attention(nn.Module):
    """Queries and keys that something is done to before they meet."""

    def __init__(self, treat, scale=None):
        super().__init__()
        self.treat, self.scale, self.heads = treat, scale, 4
        self.q, self.k, self.v = (nn.Linear(8, 24) for _ in range(3))
        self.out = nn.Linear(24, 5)
        self.norm = nn.LayerNorm(6)
        self.treat_keys = None
        self.register_buffer("angles", torch.arange(5.0)[:, None] * torch.tensor([1.0, 0.1, 0.01]))
        self.plain = nn.LayerNorm(6, elementwise_affine=False)

    def forward(self, x):
        q, k, v = (layer(x).view(2, 5, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k = k if self.treat_keys is None else self.treat_keys(self, k)
        mixed = F.scaled_dot_product_attention(self.treat(self, q), k, v, scale=self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2))


def m_norm(m, k):
    return m.norm(k)


def rotated(m, q):
    angles = torch.cat([m.angles, m.angles], -1)
    first, second = q.chunk(2, -1)
    return q * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


TREATED = {
    "not at all": (lambda m, q: q, True),
    "turned": (rotated, True),
    "normed with a scale": (lambda m, q: m.norm(q), True),
    "normed with a scale that the keys share": (lambda m, q: m.norm(q), False),
    "normed without": (lambda m, q: m.plain(q), False),
    "through a nonlinearity": (lambda m, q: q.tanh(), False),
}


class OneKey(nn.Module):
    """Four queries of one layer with the key and the value that they share, taken by their places."""

    def __init__(self, key):
        super().__init__()
        self.key, self.qkv, self.out = key, nn.Linear(8, 36), nn.Linear(24, 5)
        self.places = nn.Buffer(torch.tensor([-2]))

    def forward(self, x):
        if not x.isfinite().all():  # it is recorded with values then, and with those of the places
            raise ValueError(x)
        rows = self.qkv(x).view(2, 5, 6, -1)
        parts = rows[..., :-2, :], rows[..., self.key(self), :], rows[..., [-1], :]
        q, k, v = (part.transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q))
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("key", "able"), [(lambda m: [-2], True), (lambda m: m.places, False)])
def test_queries_are_told_from_keys_by_places_that_are_written_in_the_code(key, able):
    torch.manual_seed(0)
    model, x = OneKey(key).eval(), torch.randn(2, 5, 8)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert model.qkv.out_features == (18 if able else 36)
    assert report.rescaled == (("qkv",) if able else ())
    assert report.largest_difference <= 1e-10


@pytest.mark.parametrize("name", TREATED)
def test_the_width_of_heads_can_go_where_a_factor_passes_through(name):
    treat, able = TREATED[name]
    torch.manual_seed(0)
    model, x = Attention(treat).eval(), torch.randn(2, 5, 8)
    model.treat_keys = m_norm if name.endswith("keys share") else None
    found = plan(model, [{"sparsity": 0.5, "structures": ["head_dim"]}], x)
    widths = [group for group in found.groups if group.kind == "head_dim"]
    queries = next(group for group in widths if "q.weight" in {member.name for member in group.members})
    assert (queries.after < queries.before) == able
    report = found.apply()
    assert report.largest_difference <= 1e-10


class Written(nn.Module):
    """An attention as it is written by hand; ``scores`` makes them of queries and keys."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.heads, self.width = scores, 4, 6
        self.q, self.k, self.v = (nn.Conv1d(8, 24, 1) for _ in range(3))
        self.out = nn.Linear(24, 5)

    def forward(self, x):
        q, k, v = (layer(x.mT).mT.reshape(2, 5, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out((self.scores(self, q, k).softmax(-1) @ v).transpose(1, 2).flatten(2))


def both(m, q, k):
    scale = 1 / math.sqrt(math.sqrt(q.shape[-1]))
    return torch.einsum("bhtc,bhsc->bhts", q * scale, k * scale)


def twice(m, q, k):
    scores = q @ k.mT
    return scores / math.sqrt(k.size(-1)) + scores


def handed_on(m, q, k):
    return (q * q.shape[-1] ** -0.5) @ k.mT + q.sum(-1, keepdim=True)


WRITTEN = {
    "divided by a root": (lambda m, q, k: q @ k.transpose(-2, -1) / math.sqrt(k.size(-1)), True),
    "by numpy": (lambda m, q, k: q @ k.mT / np.sqrt(k.size(-1)), True),
    "times one by a root": (lambda m, q, k: (q @ k.mT) * (1.0 / math.sqrt(k.size(-1))), True),
    "the number first": (lambda m, q, k: q.shape[-1] ** -0.5 * (q @ k.mT), True),
    "queries": (lambda m, q, k: (q * q.shape[-1] ** -0.5) @ k.mT, True),
    "an attribute": (lambda m, q, k: q.view(2, m.heads, 5, m.width) @ k.mT * -(m.width**-0.5), True),
    "both": (both, True),
    "one by the width": (lambda m, q, k: q @ k.mT * (1 / k.size(-1)), True),
    "queries that are keys": (lambda m, q, k: q @ q.mT / math.sqrt(q.size(-1)), False),
    "scores that something else reads": (twice, False),
    "queries that something else reads": (handed_on, False),
    "queries after a nonlinearity": (lambda m, q, k: q.relu() @ k.mT / math.sqrt(q.size(-1)), False),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_scales_that_code_works_out_of_a_width_are_made_up_for(name):
    scores, able = WRITTEN[name]
    torch.manual_seed(0)
    model, x = Written(scores).eval(), torch.randn(2, 5, 8)
    found = plan(model, [{"sparsity": 0.5, "structures": ["head_dim"]}], x)
    report = found.apply()
    assert report.largest_difference <= 1e-10
    assert (model.q.out_channels == 12) == able
    assert model.v.out_channels == 12


def test_queries_that_are_values_too_are_not_multiplied():
    class Shared(Attention):
        def forward(self, x):
            q, k = (layer(x).view(2, 5, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k))
            return self.out(F.scaled_dot_product_attention(q, k, q).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model, x = Shared(lambda m, q: q).eval(), torch.randn(2, 5, 8)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.exact
    assert report.largest_difference <= 1e-10


OTHERWISE = {"the length": lambda m, q: q.size(2), "the heads": lambda m, q: m.heads}


@pytest.mark.parametrize("name", OTHERWISE)
@pytest.mark.parametrize("structures", ["head_dim", "heads"])
def test_queries_that_two_attentions_scale_otherwise_have_no_factor(name, structures):
    """Checked without the proof, which would find it out."""

    class Two(Attention):
        def forward(self, x):
            q, other, k, v = (self.q(x), self.q(x.flip(1)), self.k(x), self.v(x))
            q, other, k, v = (y.view(2, 5, self.heads, -1).transpose(1, 2) for y in (q, other, k, v))
            mixed = (q @ k.mT / math.sqrt(q.size(-1))).softmax(-1) @ v
            mixed = mixed + (other @ k.mT / math.sqrt(OTHERWISE[name](self, other))).softmax(-1) @ v
            return self.out(mixed.transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model, x = Two(lambda m, q: q).eval(), torch.randn(2, 5, 8)
    unseen, config = copy.deepcopy(model), [{"sparsity": 0.5, "structures": [structures]}]
    assert plan(model, config, x).apply().largest_difference <= 1e-10
    plan(unseen, config, x).apply(verify=False)
    assert torch.equal(unseen(x), model(x))


def test_one_layer_that_makes_the_queries_of_two_attentions_has_one_factor():
    class Again(Attention):
        def forward(self, x):
            for _ in range(2):
                q, k, v = (layer(x).view(2, 5, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
                mixed = (q @ k.mT / math.sqrt(q.size(-1))).softmax(-1) @ v
                x = torch.cat([x[..., 5:], self.out(mixed.transpose(1, 2).flatten(2))], -1)
            return x

    torch.manual_seed(0)
    model = Again(lambda m, q: q).eval()
    report = plan(model, [{"sparsity": 0.5, "structures": ["head_dim"]}], torch.randn(2, 5, 8)).apply()
    assert (report.exact, model.q.out_features) == (True, 12)
    assert report.largest_difference <= 1e-10


def test_an_embedding_times_the_root_of_its_width_may_lose_some():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(7, 12), nn.Linear(12, 3)

        def forward(self, tokens):
            x = self.words(tokens)
            return self.out(torch.relu(x * math.sqrt(x.size(-1))))

    torch.manual_seed(0)
    model = Words().eval()
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], torch.tensor([[1, 2, 3]])).apply()
    assert (report.exact, model.out.in_features) == (True, 6)
    assert report.largest_difference <= 1e-10


def test_a_scale_that_is_given_needs_no_factor():
    torch.manual_seed(0)
    model, x = Attention(lambda m, q: q, scale=0.3).eval(), torch.randn(2, 5, 8)
    dense = copy.deepcopy(model)
    found = plan(model, [{"sparsity": 0.5, "structures": ["head_dim"]}], x)
    found.apply()
    assert torch.equal(model.q.weight, found.shrink.cuts["q.weight"].apply(dense.q.weight.detach()))


def test_marks_of_rescaled_weights_are_kept():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.RMSNorm(16, eps=1e-6), nn.Linear(16, 3)).eval()
    model[1].weight.mark = "mine"
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], torch.randn(5, 4)).apply()
    assert report.rescaled == ("1",)
    assert model[1].weight.mark == "mine"
