"""What is done to a calibrated model after rounding to nearest: biases corrected, rounding learnt."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from torchpare.attach import FakeQuantize, attach_activation_quantizer, attach_masks, attach_weight_quantizer
from torchpare.config import QuantSpec, output_layout
from torchpare.errors import QuantizationError
from torchpare.numerics.affine import Grid
from torchpare.quantization.adaround import round_adaptively
from torchpare.quantization.bias_correction import correct_biases
from torchpare.quantization.twin import float_twin

FILTERED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def quantized(model, bits=3, granularity="channel", fold=None, outputs=False):
    """Weights on symmetric grids that follow them; outputs, where asked for, on affine ones of 8 bits."""
    spec = QuantSpec(Grid(bits, signed=True, symmetric=True, narrow=True), granularity)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, FILTERED):
            axis, _ = output_layout(layer)
            norm = (fold or {}).get(name)
            attach_weight_quantizer(layer, "weight", FakeQuantize(spec, name, axis=axis, follows=True), norm)
            if outputs:
                attach_activation_quantizer(norm or layer, "output", FakeQuantize(QuantSpec(Grid(8)), f"{name}.output"))
    return model


def data(*shape, count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(shape[1], shape[1], generator=generator)
    made = [torch.randn(*shape, generator=generator) for _ in range(count)]
    return [torch.einsum("nc...,cd->nd...", x, mixing).relu() + 0.3 for x in made]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, 5),
    ).eval()  # fmt: skip


def means(model, batches):
    with torch.no_grad():
        return torch.cat([model(x) for x in batches]).mean(0)


@pytest.fixture
def ready():
    """A calibrated network whose norm is folded, its float twin, and batches."""
    model, batches = network(), data(16, 3, 8, 8)
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    model[1].weight.data.normal_()
    quantized(model, fold={"0": model[1]})
    return model, float_twin(model), batches


def test_the_twin_computes_what_the_model_computed_before_it_was_quantized():
    model, (x, *_) = network(), data(4, 3, 8, 8)
    before = model(x)
    twin = float_twin(quantized(model))
    assert torch.equal(twin(x), before)
    assert not torch.equal(model(x), before)


def test_corrected_biases_give_every_layer_the_mean_of_the_float_model(ready):
    model, twin, batches = ready
    off = (means(model, batches) - means(twin, batches)).abs().max()
    report = correct_biases(model, batches)
    assert list(report) == ["0", "3", "5", "8"]
    assert (means(model, batches) - means(twin, batches)).abs().max() < 1e-4 * off
    for stop in (2, 4, 6):
        torch.testing.assert_close(means(model[:stop], batches).mean((1, 2)), means(twin[:stop], batches).mean((1, 2)))


def test_a_layer_with_neither_bias_nor_folded_norm_is_left_out():
    model = quantized(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)))
    assert list(correct_biases(model, data(8, 3))) == ["2"]


def test_learnt_rounding_is_closer_than_nearest_layer_by_layer_and_in_the_end(ready):
    model, twin, batches = ready
    nearest = copy.deepcopy(model)
    report = round_adaptively(model, batches, iterations=300, generator=torch.Generator().manual_seed(0))
    assert list(report) == ["0", "3", "5", "8"]
    assert all(own.learnt_error <= own.nearest_error for own in report.values())
    assert any(0 < own.moved < 0.6 for own in report.values())
    errors = [sum((some(x) - twin(x)).square().mean().item() for x in batches) for some in (model, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_learnt_weights_lie_on_the_grid_next_to_what_they_were(ready):
    model, twin, batches = ready
    report = round_adaptively(model, batches, iterations=200, generator=torch.Generator().manual_seed(0))
    rounded = [int(name) for name, own in report.items() if own.moved]
    assert len(rounded) > 2
    for at in rounded:
        used, dense, scale = model[at].weight, twin[at].weight, model[at].scale
        torch.testing.assert_close(used, model[at].old_weight.detach())
        # Of a layer whose norm is folded the scale is that of the folded weight.
        factor = 1 if at else (model[1].weight / (model[1].running_var + model[1].eps).sqrt())[:, None, None, None]
        assert bool(((used - dense) * factor / scale).abs().max() <= 1.001)
        steps = used * factor / scale
        torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)


def test_the_same_generator_gives_the_same_weights():
    states = []
    for _ in range(2):
        model = quantized(network())
        round_adaptively(model, data(8, 3, 8, 8), iterations=30, generator=torch.Generator().manual_seed(3))
        states.append(model[3].weight)
    assert torch.equal(*states)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_scale_stays_though_no_weight_is_what_it_was(granularity):
    model = quantized(nn.Sequential(nn.Linear(6, 5)), granularity=granularity)
    before = model[0].scale.clone()
    round_adaptively(model, data(16, 6), iterations=100)
    assert torch.equal(model[0].scale, before)


def test_pruned_weights_stay_zero():
    model = network()
    mask = torch.rand(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    attach_masks(model, {"3": {"weight": mask}})
    quantized(model)
    round_adaptively(model, data(8, 3, 8, 8), iterations=50)
    assert not bool(model[3].weight[~mask].any())


@pytest.mark.parametrize("mend", [correct_biases, round_adaptively])
def test_errors_say_what_is_missing_and_leave_the_model_as_it_was(mend):
    with pytest.raises(QuantizationError, match="compress"):
        mend(network(), data(2, 3, 8, 8))
    with pytest.raises(QuantizationError, match="no batches"):
        mend(quantized(network()), [])
    model = quantized(network())
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(QuantizationError, match="NaN"):
        mend(model, [torch.full((2, 3, 8, 8), torch.nan)])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "mend", [correct_biases, lambda model, batches: round_adaptively(model, batches, iterations=2)]
)
def test_modes_come_back(mend):
    model = quantized(network())
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    mend(model, data(4, 3, 8, 8))
    assert [module.training for module in model.modules()] == modes
