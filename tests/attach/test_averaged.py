"""Averaged copies of a model get the masks and grids that the model has by now."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchpare.attach import (
    FakeQuantize,
    attach_activation_quantizer,
    attach_mask,
    attach_weight_quantizer,
    masks_of,
)
from torchpare.attach.averaged import carry_over
from torchpare.config import QuantSpec
from torchpare.numerics.affine import Grid


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))


def names(model):
    return [name for name, _ in model.named_buffers()]


def test_masks_that_came_later_lie_where_they_lie_in_the_model_so_that_averages_walk_side_by_side():
    model = net()
    averaged = AveragedModel(model)
    attach_mask(model[0], "weight", torch.tensor([True, False, True, True]).view(4, 1, 1, 1))
    attach_mask(model[0], "bias", torch.tensor([True, False, True, True]))
    attach_mask(model[2], "weight", torch.tensor([[True, False, True, True]]).view(1, 4, 1, 1))
    carry_over(model, averaged.module)
    assert names(averaged.module) == names(model)
    averaged.update_parameters(model)
    for (name, own), other in zip(model.named_buffers(), averaged.module.buffers(), strict=True):
        assert torch.equal(own, other), name


def test_masks_that_changed_are_the_same_again_and_weights_are_not_touched():
    model = net()
    attach_mask(model[0], "weight", torch.ones(4, 1, 1, 1, dtype=torch.bool))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    before = [parameter.clone() for parameter in twin.parameters()]
    attach_mask(model[0], "weight", torch.rand(4, 1, 3, 3) > 0.5)
    carry_over(model, twin)
    assert torch.equal(masks_of(twin)["0"]["weight"], masks_of(model)["0"]["weight"])
    assert all(torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))
    assert masks_of(twin)["0"]["weight"].data_ptr() != model[0].weight_mask.data_ptr()


def test_a_grid_that_waits_in_the_copy_is_awake_when_the_models_is():
    model = net()
    spec = QuantSpec(Grid(8), "channel", observer="moving_average", start_step=1)
    attach_activation_quantizer(model[0], "output", FakeQuantize(spec, "0", axis=1))
    twin = copy.deepcopy(model)
    for _ in range(2):
        model.train()(torch.randn(2, 1, 8, 8))
    assert model[0].output_quantizer.active
    assert not twin[0].output_quantizer.active
    carry_over(model, twin)
    twin[1].load_state_dict(model[1].state_dict())
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(twin.eval()(x), model.eval()(x))


def test_a_grid_that_was_fixed_is_fixed_in_the_copy():
    model = net()
    attach_weight_quantizer(
        model[0], "weight", FakeQuantize(QuantSpec(Grid(8, signed=True, symmetric=True)), "0.weight", follows=True)
    )
    twin = copy.deepcopy(model)
    model[0].weight_quantizer.fix(torch.tensor(0.01), torch.tensor(0, dtype=torch.int32))
    carry_over(model, twin)
    assert torch.equal(twin[0].weight, model[0].weight)
    assert float(twin[0].weight.detach().abs().max()) > 0
