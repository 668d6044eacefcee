"""Weights and biases that are worked out from parameters: masking those need not silence what they make."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.nets import image, keep_without, net
from tests.networks.oracles import exact_output, masked_by_hand, relative
from torchpare import plan
from torchpare.speedup import ModelSpeedup

WAYS = {
    "a positive bias": lambda w, b: (w, F.softplus(b)),
    "a positive weight": lambda w, b: (w.exp(), b),
    "both": lambda w, b: (w.exp(), b.exp()),
    "a standardised weight": lambda w, b: ((w - w.mean(0)) / 2, b),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_masked_model_does_not_read_what_a_channel_that_went_would_hold(kind, way):
    if kind == "linear":
        make, call, x = nn.Linear, F.linear, image()[:, 0, 0]
        layers = {"a": make(6, 8), "b": make(8, 8), "c": make(8, 2)}
    else:
        call, x = F.conv2d, image()
        layers = {"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(8, 8, 1), "c": nn.Conv2d(8, 2, 1)}
    model = net(lambda m, x: m.c(call(m.a(x).relu(), *WAYS[way](m.b.weight, m.b.bias)).relu()), **layers)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    assert model.c.weight.shape[1] == 4


class Standardised(nn.Conv2d):
    """A convolution whose kernel is worked out anew in each call, so that no product reads its parameter."""

    def forward(self, x):
        kernel = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        kernel = kernel / (kernel.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-5)
        return nn.functional.conv2d(x, kernel, self.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_a_mask_of_a_weight_that_no_product_takes_as_it_is_asks_for_its_filters(bias):
    model = net(
        lambda m, x: m.b(torch.relu(m.a(x))), a=Standardised(3, 6, 3, bias=bias), b=nn.Conv2d(6, 2, 1, bias=False)
    )
    keep = keep_without(6, 1, 4)
    masks = {"a": {"weight": keep.view(6, 1, 1, 1), **({"bias": keep} if bias else {})}}
    dense = copy.deepcopy(model)
    report = ModelSpeedup(model, image(), masks).speedup_model()
    assert model.a.weight.shape[0] == model.b.weight.shape[1] == 4
    assert report.exact
    assert report.output_change > 1e-6
    assert relative(exact_output(masked_by_hand(dense, masks), image()), exact_output(model, image())) <= 1e-10


def test_such_a_weight_is_heard_where_layers_share_channels():
    model = net(
        lambda m, x: m.c(m.a(x) + m.b(x)),
        a=Standardised(3, 6, 3),
        b=nn.Conv2d(3, 6, 3),
        c=nn.Conv2d(6, 2, 1, bias=False),
    )
    keep = keep_without(6, 1, 4)
    report = ModelSpeedup(model, image(), {"a": {"weight": keep.view(6, 1, 1, 1), "bias": keep}}).speedup_model()
    assert model.a.weight.shape[0] == 6, "the other layer was not asked"
    assert [entry.channels for entry in report.restored] == [2]
