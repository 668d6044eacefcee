"""Weights and biases that are worked out from parameters: masking those need not silence what they make."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import nn

from tests.graph.nets import image, net
from torchpare import plan

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
