"""Sums of eight-bit products on processors that add two of them in 16 bits."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from torchpare.quantization import ObserverQuantizer
from torchpare.runtimes import ModelSpeedupONNXRuntime, saturation, verify
from torchpare.runtimes.integers import store


def engine(bits: int) -> ModelSpeedupONNXRuntime:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()
    batches = [torch.randn(4, 3, 6, 6)]
    asked = [{"quant_types": ["weight", "input"], "quant_bits": {"weight": bits, "input": 8}, "op_types": ["default"]}]
    ObserverQuantizer(model, asked, dummy_input=batches[0]).calibrate(batches)
    made = ModelSpeedupONNXRuntime(model, dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    assert verify(made, batches[0]).ok
    return made


@pytest.fixture
def old_processor(monkeypatch):
    monkeypatch.setattr(saturation, "adds_exactly", lambda: False)


def test_weights_of_eight_bits_are_warned_of_where_sums_may_saturate(old_processor):
    with pytest.warns(UserWarning, match=r"weights of 2 layers, 0\.weight.* among them.*7 bits"):
        engine(8)


@pytest.mark.parametrize("bits", [7, 6, 4, 2])
def test_weights_of_fewer_bits_are_exact_everywhere(old_processor, bits):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = engine(bits)
    codes = [held for held in made.program.module.buffers() if held.dtype == torch.int8]
    assert len(codes) == 2
    for held in codes:
        assert 2 * 255 * int(held.long().abs().max()) < 2**15


def test_where_sums_are_exact_nothing_is_said():
    if not saturation.adds_exactly():
        pytest.skip("this processor adds two products in 16 bits")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine(8)


def test_levels_of_seven_bits_are_stored_as_they_are():
    value = torch.tensor([[-63.0, 5.0, 64.0]]) * 0.25
    held = store(value, torch.tensor(0.25), 0)
    assert not isinstance(held, str)
    assert held.codes.tolist() == [[-63, 5, 64]]
    assert torch.equal(held.value, value)
