"""A batch norm whose scale and shift are masked asks for the filters in front of it, where nobody else reads them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.graph.nets import image, keep_without, net
from torchpare.speedup import ModelSpeedup


def norm_masks(*gone, size=6, layer="norm"):
    keep = keep_without(size, *gone)
    return {layer: {"weight": keep, "bias": keep}}


def plain(run=lambda m, x: m.b(torch.relu(m.norm(m.a(x)))), **more):
    return net(run, a=nn.Conv2d(3, 6, 1), norm=nn.BatchNorm2d(6), b=nn.Conv2d(6, 2, 1), **more)


def test_the_filters_in_front_of_it_go():
    model = plain()
    report = ModelSpeedup(model, image(), norm_masks(1, 4)).speedup_model()
    assert report.exact
    assert report.output_change > 0
    assert (len(model.a.weight), len(model.norm.weight), model.b.weight.shape[1]) == (4, 4, 4)


def test_so_do_the_features_of_a_linear_layer():
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double().eval()
    ModelSpeedup(model, torch.randn(4, 3).double(), norm_masks(0, layer="1")).speedup_model()
    assert len(model[0].weight) == 5


@pytest.mark.parametrize(
    "masks",
    [
        {"norm": {"weight": keep_without(6, 1)}},
        {"norm": {"weight": keep_without(6, 1), "bias": keep_without(6, 2)}},
    ],
    ids=["scale alone", "another shift"],
)
def test_a_shift_that_stays_speaks(masks):
    model = plain()
    ModelSpeedup(model, image(), masks).speedup_model()
    assert len(model.a.weight) == 6


def test_what_others_read_before_the_norm_stays():
    def run(m, x):
        y = m.a(x)
        return m.b(torch.relu(m.norm(y))) + m.c(y)

    model = plain(run, c=nn.Conv2d(6, 2, 1))
    ModelSpeedup(model, image(), norm_masks(1)).speedup_model()
    assert len(model.a.weight) == 6


def test_a_layer_that_runs_twice_loses_what_both_norms_take_away():
    def run(m, x):
        return m.b(torch.relu(m.norm(m.a(x)))) + m.c(torch.relu(m.other(m.a(x.flip(2)))))

    model = plain(run, other=nn.BatchNorm2d(6), c=nn.Conv2d(6, 2, 1))
    ModelSpeedup(model, image(), norm_masks(1, 4) | norm_masks(4, 5, layer="other")).speedup_model()
    assert len(model.a.weight) == 5


def test_a_residual_goes_when_all_its_norms_agree():
    def run(m, x):
        y = torch.relu(m.norm(m.a(x)))
        return m.b(torch.relu(y + m.other(m.c(y))))

    model = plain(run, c=nn.Conv2d(6, 6, 1), other=nn.BatchNorm2d(6))
    report = ModelSpeedup(model, image(), norm_masks(1, 4) | norm_masks(4, layer="other")).speedup_model()
    assert report.exact
    assert (len(model.a.weight), len(model.c.weight)) == (5, 5)
