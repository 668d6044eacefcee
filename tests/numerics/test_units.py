"""A filter is everything that makes one output channel, wherever it lies in the weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.twins import scores as twins
from torchpare.config import output_layout
from torchpare.numerics import Element, Filter

LAYERS = {
    "linear": (lambda: nn.Linear(4, 6), (2, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 8)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 8, 8)),
    "conv2d groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2), (2, 4, 4, 4, 4)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 8)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, 3, bias=False), (2, 4, 8, 8)),
    "transposed 2d groups": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 8, 8)),
    "transposed 3d groups": (lambda: nn.ConvTranspose3d(4, 8, 2, groups=4), (2, 4, 4, 4, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_masked_filters_are_the_outputs_that_become_zero_and_no_others(kind):
    make, shape = LAYERS[kind]
    layer = make().double()
    unit = Filter(*output_layout(layer))
    outputs = unit.fold(layer.weight).shape[0]
    keep = torch.rand(outputs) < 0.5
    keep[0], keep[1] = True, False
    masks = unit.unfold(keep, layer.weight, layer.bias)
    assert set(masks) == ({"weight"} if layer.bias is None else {"weight", "bias"})
    x = torch.randn(shape, dtype=torch.float64)
    dense = layer(x)
    with torch.no_grad():
        for name, mask in masks.items():
            assert mask.dtype == torch.bool
            assert mask.dim() == getattr(layer, name).dim()
            getattr(layer, name).mul_(mask)
    expected = dense * keep.reshape(1, -1, *[1] * (dense.dim() - 2))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_mask_is_a_vector_along_its_axis_and_gives_back_what_was_kept(kind):
    layer = LAYERS[kind][0]()
    unit = Filter(*output_layout(layer))
    keep = torch.arange(unit.fold(layer.weight).shape[0]) % 3 != 1
    mask = unit.unfold(keep, layer.weight, None)["weight"]
    assert all(size == 1 for size in mask.shape[2:])
    if unit.groups == 1:
        assert mask.numel() == keep.numel()
    assert torch.equal(unit.kept(mask, layer.weight), keep)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_filters_of_a_transposed_convolution(groups):
    weight = torch.randn(8, 3, 2, 2)
    folded = Filter(1, groups).fold(weight)
    assert folded.shape[0] == 3 * groups
    for output, rows in enumerate(folded):
        assert torch.equal(rows, torch.stack(twins.transposed_filter(weight, groups, output)))


def test_single_weights_leave_the_bias_alone():
    keep = torch.tensor([[True, False], [True, True]])
    weight = torch.randn(2, 2)
    masks = Element().unfold(keep, weight, torch.zeros(2))
    assert set(masks) == {"weight"}
    assert torch.equal(masks["weight"], keep)
    assert torch.equal(
        Element().kept(torch.tensor([[True], [False]]), weight), torch.tensor([[True, True], [False, False]])
    )


def test_each_run_of_filters_loses_its_lowest_where_they_are_balanced():
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0, 8.0, 7.0, 6.0])
    assert Filter(balanced=2).keep(scores, 0.5).tolist() == [False, False, True, True, True, True, False, False]
    assert Filter().keep(scores, 0.5).tolist() == [False] * 4 + [True] * 4
