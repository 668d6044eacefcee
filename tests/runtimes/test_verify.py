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


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)

    def forward(self, x, mask):
        return self.layers(x, src_key_padding_mask=mask == 0)


def test_tokens_of_padding_are_compared_as_programs_compute_them():
    """Torch's fused encoder returns zeros for them."""
    x, mask = torch.randn(2, 6, 16), torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    engine = ModelSpeedupONNXRuntime(Padded().eval(), dummy_input=(x, mask), calib_data_loader=[(x, mask)])
    engine.compress()
    made = verify(engine, (x, mask))
    assert made.ok
    assert made.own_snr > 60
    assert made.model_snr > 20


class Counts(nn.Module):
    """Adds how often it was called."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)
        self.register_buffer("calls", torch.zeros(4))

    def forward(self, x):
        self.calls.add_(1)
        return self.layer(x) + 1000 * self.calls


def test_a_model_that_counts_its_calls_is_compared_at_its_first():
    assert proof(Counts().eval()).own_snr > 60
