"""Rounding errors of weights and inputs: against loops in float64, and the rule of six decibels a bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchpare.errors import ConfigError
from torchpare.insight import rounding
from torchpare.report import Page, Section, render_page


def ratio(x: np.ndarray, rounded: np.ndarray) -> float:
    return 10 * math.log10((x**2).sum() / ((x - rounded) ** 2).sum())


def symmetric(x: np.ndarray, bits: int) -> np.ndarray:
    """Signed, narrow, of the largest magnitude: Jacob et al., written out."""
    most = 2 ** (bits - 1) - 1
    scale = np.abs(x).max() / most
    return np.clip(np.round(x / scale), -most, most) * scale


def affine(x: np.ndarray, bits: int, low: float, high: float) -> np.ndarray:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    zero = np.clip(np.round(-low / scale), 0, 2**bits - 1)
    return (np.clip(np.round(x / scale) + zero, 0, 2**bits - 1) - zero) * scale


def of(model, example, data=None, bits=(8, 4)):
    return {each.name: each for each in rounding(model, example, data, bits=bits).layers}


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_are_rounded_as_the_formula_says(bits):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5, 4))
    found = of(model, torch.rand(2, 3, 3, 3), bits=(bits,))
    for name in ("0", "2"):
        weight = model.get_submodule(name).weight.detach().double().numpy()
        by_row = np.stack([symmetric(row, bits) for row in weight])
        assert found[name].weight_tensor[bits] == pytest.approx(ratio(weight, symmetric(weight, bits)), abs=1e-3)
        assert found[name].weight_channel[bits] == pytest.approx(ratio(weight, by_row), abs=1e-3)


def test_a_loader_that_shuffles_shows_the_same_batches_for_ranges_and_for_errors():
    rows = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 10 ** torch.linspace(-3, 3, 64)[:, None]
    model, loader = nn.Linear(3, 2), DataLoader(TensorDataset(rows), batch_size=1, shuffle=True)
    for seed in range(3):
        torch.manual_seed(seed)
        found = rounding(model, rows[:1], loader, bits=(8,), max_batches=1).layers[0].input_tensor[8]
        one = [of(model, rows[:1], [row[None]], (8,))["(Linear)"].input_tensor[8] for row in rows]
        assert found in one


@pytest.mark.parametrize("bits", [8, 4])
def test_inputs_are_rounded_on_the_range_of_all_batches(bits):
    batches = [torch.randn(4, 3) * scale for scale in (1.0, 5.0, 0.2)]
    each = of(nn.Linear(3, 2), batches[0], batches, bits=(bits,))["(Linear)"]
    x = torch.cat(batches).double().numpy()
    by_column = np.stack([affine(column, bits, column.min(), column.max()) for column in x.T]).T
    assert each.input_tensor[bits] == pytest.approx(ratio(x, affine(x, bits, x.min(), x.max())), abs=1e-2)
    assert each.input_channel[bits] == pytest.approx(ratio(x, by_column), abs=1e-2)


def test_inputs_of_convolutions_have_their_channels_before_the_picture():
    x = torch.rand(2, 3, 4, 4) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1)
    each = of(nn.Conv2d(3, 2, 1), x, bits=(6,))["(Conv2d)"]
    wide = x.double().numpy()
    by_channel = np.stack([affine(c, 6, c.min(), c.max()) for c in wide.transpose(1, 0, 2, 3)]).transpose(1, 0, 2, 3)
    assert each.input_channel[6] == pytest.approx(ratio(wide, by_channel), abs=1e-2)


def test_a_grouped_transposed_convolution_has_a_scale_for_each_output_of_each_group():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(4, 3, 1, 1) * 10)
    weight = layer.weight.detach().double().numpy()
    rounded = weight.copy()
    for group in range(2):
        rows = slice(2 * group, 2 * group + 2)
        for column in range(3):
            rounded[rows, column] = symmetric(weight[rows, column], 4)
    each = of(layer, torch.rand(1, 4, 5, 5))["(ConvTranspose2d)"]
    assert each.weight_channel[4] == pytest.approx(ratio(weight, rounded), abs=1e-3)


def test_a_bit_is_worth_six_decibels():
    layer = nn.Linear(400, 100)
    nn.init.uniform_(layer.weight, -1, 1)
    each = of(layer, torch.rand(1, 400), bits=(4, 5, 6, 7, 8))["(Linear)"]
    values = [each.weight_tensor[bits] for bits in (4, 5, 6, 7, 8)]
    assert np.diff(values) == pytest.approx([6.02] * 4, abs=0.6)


def test_a_layer_that_takes_tensors_of_two_ranks_adds_up_both():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x).sum() + self.linear(x[0]).sum()

    x = torch.rand(2, 4, 3)
    seen = torch.cat([x.flatten(0, 1), x[0]]).double().numpy()
    each = of(Both(), x, bits=(8,))["linear"]
    assert each.input_tensor[8] == pytest.approx(ratio(seen, affine(seen, 8, seen.min(), seen.max())), abs=1e-2)


def test_what_is_exact_or_unknown_is_said_so_and_is_none_in_json():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.zero, self.one, self.unused = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            nn.init.zeros_(self.zero.weight)
            nn.init.ones_(self.one.weight)
            self.unused.weight.data[0, 0] = float("nan")

        def forward(self, x):
            return self.one(self.zero(x))

    found = rounding(Skips(), torch.ones(1, 2))
    zero, one, unused = found.layers
    assert math.isnan(zero.weight_tensor[8])
    assert one.weight_tensor[8] == math.inf
    assert math.isnan(unused.weight_tensor[8])
    assert math.isnan(unused.input_tensor[8])
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["layers"][2]["input_tensor"] == {"8": None, "4": None}
    assert "exact" in render_page(Page("x", sections=(Section("y", blocks=found.blocks()),)))


def test_the_worst_layer_comes_first():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        model[1].weight[:, 0] = 1000.0
    found = rounding(model, torch.rand(2, 8))
    assert found.worst(4)[0].worst(4) <= found.worst(4)[1].worst(4)


@pytest.mark.parametrize("bits", [(), (1,), (17,), ("8",)])
def test_bits_that_no_grid_has_are_refused(bits):
    with pytest.raises(ConfigError, match="bits is"):
        rounding(nn.Linear(2, 2), torch.rand(1, 2), bits=bits)
