"""What layers pass on, and the gradients that come back: as they were when the layer passed them on."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.twins.evidence import first_order_of_activations as obvious
from torchpare.attach.activation_watch import ActivationGradientWatch
from torchpare.numerics import first_order_of_activations

CHANGES = {
    "nothing": lambda y, other: (y + other).tanh(),
    "an addition in place": lambda y, other: y.add_(other).tanh(),
    "a SiLU in place": lambda y, other: functional.silu(y, inplace=True) + other,
    "a ReLU in place": lambda y, other: functional.relu_(y) + other,
    "a product in place": lambda y, other: y.mul_(2.0) * other,
}


def watched(layer):
    return ActivationGradientWatch(
        {"layer": layer}, lambda output, grad, axis: (first_order_of_activations(output, grad, axis), len(output))
    )


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_activations_are_those_that_the_layer_returned_whatever_changes_them_in_place_behind_it(change):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 6, 3, padding=1), torch.randn(5, 2, 4, 4)
    other = torch.randn(5, 6, 4, 4)
    passed = layer(x).detach().requires_grad_()
    change(passed * 1, other).square().sum().backward()  # the product is a copy that may be changed
    watch = watched(layer)
    change(layer(x), other).square().sum().backward()
    total, examples = watch.sums["layer"]
    assert examples == 5
    expected = torch.tensor(obvious(passed.detach(), passed.grad), dtype=torch.float64)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6)
