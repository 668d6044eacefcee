"""A quantized model is made smaller: its quantizers keep their grids, and lose the scales of channels that go."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from torchpare import ModelSpeedup
from torchpare.attach import (
    FakeQuantize,
    attach_activation_quantizer,
    attach_weight_quantizer,
    quantizers_of,
)
from torchpare.config import QuantSpec, output_layout
from torchpare.errors import ProofError, ShrinkError
from torchpare.graph import analyse
from torchpare.numerics.affine import Grid
from torchpare.pruning import L1FilterPruner

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()  # so that no rounding is a near thing
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    ).double()  # fmt: skip


def pruned(sparsity=0.5):
    model = network()
    config = [{"sparsity": sparsity, "op_names": ["0", "3", "5"]}]
    L1FilterPruner(model, config, dependency_aware=True, dummy_input=X).compress()
    return model


def quantized(model, granularity="channel", follows=True, size=0, fold=None):
    """Weights on symmetric grids of 4 bits, outputs on affine ones of 8 that two batches have told."""
    grid = Grid(4, signed=True, symmetric=True, narrow=True)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, WEIGHTED):
            axis, _ = output_layout(layer)
            each = granularity if axis == 0 or granularity != "group" else "channel"
            quantizer = FakeQuantize(QuantSpec(grid, each, size), f"{name}.weight", axis=axis, follows=follows)
            if not follows:
                quantizer.observe(layer.weight)
            attach_weight_quantizer(layer, "weight", quantizer, fold if name == "0" else None)
            attach_activation_quantizer(layer, "output", FakeQuantize(QuantSpec(Grid(8)), f"{name}.output"))
    model.train()
    for _ in range(2):
        model(X)
    for _, _, kind, quantizer in quantizers_of(model):
        if kind == "weight" and not follows:
            quantizer.freeze()
    return model.eval()


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_small_model_computes_what_the_pruned_and_quantized_one_did(granularity, follows):
    model = quantized(pruned(), granularity, follows)
    expected = model(X)
    scales = {path: quantizer.scale.clone() for path, _, kind, quantizer in quantizers_of(model) if kind == "output"}
    report = ModelSpeedup(model, X).speedup_model()
    assert report.exact
    assert report.parameters_after < 0.6 * report.parameters_before
    assert model[0].weight.shape[0] == 4
    assert model[5].weight.shape[:2] == (4, 3)
    assert [kind for *_, kind, _ in quantizers_of(model)].count("weight") == 4
    if follows:  # a grid follows what is left of a weight: columns that read removed channels no longer widen it
        expected = as_if_quantized_when_small(model)
    torch.testing.assert_close(model(X), expected, rtol=1e-9, atol=1e-9)
    after = {path: quantizer.scale for path, _, kind, quantizer in quantizers_of(model) if kind == "output"}
    assert all(torch.equal(after[path], scale) for path, scale in scales.items())


def as_if_quantized_when_small(model):
    """The outputs of a model that was first made smaller, then given quantizers, and the same state."""
    other = pruned()
    ModelSpeedup(other, X).speedup_model()
    quantized(
        other, next(quantizer.spec.granularity for _, _, kind, quantizer in quantizers_of(model) if kind == "weight")
    )
    other.load_state_dict(model.state_dict())
    return other(X)


def test_the_scales_of_channels_go_with_their_channels():
    model = quantized(pruned(), follows=False)
    kept = model[0].weight_mask.flatten()
    filters, columns = model[0].scale[kept].clone(), model[5].scale[:, model[5].bias_mask].clone()
    ModelSpeedup(model, X).speedup_model()
    assert torch.equal(model[0].scale, filters)
    assert torch.equal(model[5].scale, columns)
    again = quantized(pruned(), follows=False)
    ModelSpeedup(again, X).speedup_model()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(X), model(X))


def test_a_folded_norm_stays_folded():
    model = pruned()
    quantized(model, "tensor", fold=model[1])
    expected, folded = model(X), model[0].weight[model[0].weight_mask.flatten()].clone()
    ModelSpeedup(model, X).speedup_model()
    assert model[0].torchpare_fold == (model[1],)
    torch.testing.assert_close(model[0].weight, folded)
    torch.testing.assert_close(model(X), expected, rtol=1e-9, atol=1e-9)


def test_the_small_quantized_model_learns_on():
    model = quantized(pruned())
    ModelSpeedup(model, X).speedup_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model[0].old_weight.clone()
    model.train()
    model(X).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].old_weight, before)
    assert len(model[0].weight.detach()[0].unique()) <= 16


def test_a_small_model_can_be_quantized():
    model = pruned()
    ModelSpeedup(model, X).speedup_model()
    assert bool(quantized(model)(X).isfinite().all())


def test_groups_of_weights_survive_where_they_still_divide_and_are_refused_where_not():
    model = network()
    L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["0"]}], dummy_input=X).compress()
    quantized(model, "group", size=3)
    expected = model(X)
    ModelSpeedup(model, X).speedup_model()
    torch.testing.assert_close(model(X), expected, rtol=1e-9, atol=1e-9)

    model = network()
    L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["5"]}], dummy_input=X).compress()
    attach_groups(model[9], 8)
    state, output = copy.deepcopy(model.state_dict()), model.eval()(X)
    with pytest.raises(ShrinkError, match="groups of 8"):
        ModelSpeedup(model, X).speedup_model()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(X), output)


def attach_groups(layer, size):
    spec = QuantSpec(Grid(4, signed=True, symmetric=True, narrow=True), "group", size)
    attach_weight_quantizer(layer, "weight", FakeQuantize(spec, "9.weight", follows=True))


def test_an_error_leaves_the_quantizers_where_they_were(monkeypatch):
    model = quantized(pruned())
    state, output, shown = copy.deepcopy(model.state_dict()), model(X), str(model)

    def lie(*_):
        return 1.0

    monkeypatch.setattr("torchpare.speedup.model_speedup._difference", lie)
    with pytest.raises(ProofError):
        ModelSpeedup(model, X).speedup_model()
    assert str(model) == shown
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(X), output)
    model.train()
    model(X * 9)
    assert not torch.equal(model[0].output_quantizer.high, state["0.output_quantizer.high"])


def test_what_hangs_together_is_found_under_quantizers_as_without_them():
    plain, under = (analyse(model, X) for model in (network(), quantized(network())))
    assert [op.name for op in under.program.ops] == [op.name for op in plain.program.ops]
    assert under.producers == plain.producers
