"""A proof is of the model, and not only of the program that was made of it."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from torchpare.quantization import QAT_Quantizer
from torchpare.runtimes import ModelSpeedupONNXRuntime, folding, verify

X = torch.randn(4, 8, 5, generator=torch.Generator().manual_seed(0))


def tokens():
    """A norm whose channels are tokens, of which there are as many as the layer before has outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.2, 3)
    return model


def proof(model, **given):
    engine = ModelSpeedupONNXRuntime(model, dummy_input=X, **given)
    engine.compress()
    return verify(engine, X)


@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "quantized"])
def test_a_program_that_is_not_the_models_is_no_proof(monkeypatch, quantized):
    model = tokens()
    if quantized:
        entry = {"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Linear"]}
        QAT_Quantizer(model, [entry]).compress()
        model.train()(X)
        model.eval()
    right = proof(model, calib_data_loader=[X])
    assert right.ok
    assert right.own_snr > 60
    monkeypatch.setattr(folding, "_has_channels_second", lambda layer, weight: True)
    wrong = proof(model, calib_data_loader=[X])
    assert wrong.first_offending is None  # the runtime computes what the program says
    assert not wrong.ok
    assert wrong.to_dict()["own_snr"] < 40
    written = io.StringIO()
    Console(file=written, width=200).print(wrong)
    assert "the program is not the model's" in written.getvalue()


def test_where_nothing_can_be_compared_the_program_is_taken_for_the_models(tmp_path):
    model = tokens()
    entry = {"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Linear"]}
    quantizer = QAT_Quantizer(model, [entry])
    quantizer.compress()
    model.train()(X)
    model.eval()
    quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    plain = tokens()
    plain.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    with_file = proof(plain, config=tmp_path / "calibration.pth")
    assert with_file.own_snr is None
    assert with_file.ok
    zeros = nn.Linear(5, 3)
    nn.init.zeros_(zeros.weight)
    nn.init.zeros_(zeros.bias)
    assert proof(zeros).own_snr is None
