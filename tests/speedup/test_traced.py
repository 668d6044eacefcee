"""Sizes written in the source: the line is named, and a graph does what the code cannot."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.oracles import fingerprint, masked_by_hand, relative
from torchpare import plan
from torchpare.errors import ConfigError, ShrinkError

ALL = [{"sparsity": 0.5, "structures": ["all"]}]


class Written(nn.Module):
    """A view, a slice, a split, a group norm and an expand with numbers of channels in the source."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3, groups=2)
        self.norm = nn.LayerNorm([12])
        self.three, self.four = nn.Linear(12 * 4, 20), nn.Linear(10, 6)
        self.shift = nn.Parameter(torch.randn(1, 12))

    def forward(self, x):
        x = F.max_pool2d(self.two(F.relu(self.one(x))), 2)
        x = self.norm(x.permute(0, 2, 3, 1) + self.shift.expand(2, 12)[:, None, None]).permute(0, 3, 1, 2)
        a, b = self.three(x.reshape(-1, 48)).split([10, 10], 1)
        return self.four((a * b.tanh())[:, :10])


def written():
    torch.manual_seed(0)
    return Written().eval(), torch.randn(2, 1, 8, 8)


def test_the_lines_are_named_and_keep_what_they_count():
    model, x = written()
    found = plan(model, ALL, x)
    assert {48, 10} <= {value for value, _ in found.space.literals}
    assert all("test_traced.py" in where for _, where in found.space.literals)
    assert "literals='trace' lets it go" in str(found)
    report = found.apply()
    assert report.largest_difference <= 1e-10
    assert (model.three.in_features, model.three.out_features) == (48, 20)


def test_the_graph_is_smaller_and_computes_what_the_masked_model_does():
    model, x = written()
    before = fingerprint(model)
    found = plan(model, ALL, x, literals="trace")
    graph = found.graph()
    assert fingerprint(model) == before
    names = {name: tuple(parameter.shape) for name, parameter in graph.named_parameters()}
    assert names["three.weight"] == (10, 24)
    assert sum(parameter.numel() for parameter in graph.parameters()) < 0.4 * found.parameters[0]
    out = graph(x)
    assert out.shape == (2, 6)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())
    torch.testing.assert_close(copy.deepcopy(graph)(x), out)


def test_without_norms_over_pruned_channels_it_is_the_masked_model_itself():
    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 10, 3)
            self.f1, self.f2 = nn.Linear(160, 30), nn.Linear(30, 4)

        def forward(self, x):
            x = F.relu(self.c2(F.relu(self.c1(x))))
            return self.f2(F.relu(self.f1(x.view(-1, 10 * 4 * 4))))

    torch.manual_seed(0)
    model, x = LeNet().eval(), torch.randn(3, 1, 8, 8)
    found = plan(model, ALL, x, literals="trace")
    with torch.no_grad():
        small = found.graph()(x)
        assert relative(masked_by_hand(model, found.masks())(x), small) < 1e-5
        assert relative(model(x), small) > 1e-2


def test_the_python_model_says_why_it_cannot():
    model, x = written()
    before = fingerprint(model)
    with pytest.raises(ShrinkError, match=r"written as numbers.*graph\(\)"):
        plan(model, ALL, x, literals="trace").apply()
    assert fingerprint(model) == before


def test_a_graph_is_asked_for_in_the_plan():
    model, x = written()
    with pytest.raises(ShrinkError, match="literals='trace'"):
        plan(model, ALL, x).graph()
    with pytest.raises(ConfigError, match="'keep' or 'trace'"):
        plan(model, ALL, x, literals="ignore")


def test_stacked_recurrent_layers_are_replayed():
    class Heard(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(5, 8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1].view(2, 8))

    torch.manual_seed(0)
    model, x = Heard().eval(), torch.randn(2, 4, 5)
    graph = plan(model, ALL, x, literals="trace").graph()
    assert graph(x).shape == (2, 3)
