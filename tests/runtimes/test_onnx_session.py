"""What ONNX Runtime is told when it loads a file."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from torchpare.files.onnx import export_onnx
from torchpare.quantization import QAT_Quantizer
from torchpare.runtimes import ModelSpeedupONNXRuntime, build_program, verify, write_qdq
from torchpare.runtimes.onnxruntime import onnx_session, session_runner
from torchpare.runtimes.unpacking import unpacked
from torchpare.runtimes.verify import snr


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, x):
        return self.norm(x + self.linear(x))


def test_a_sum_before_a_layer_norm_keeps_the_faster_kernels(tmp_path):
    model, x = Residual().eval(), torch.randn(2, 5, 32)
    export_onnx(model, tmp_path / "model.onnx", x)
    session = onnx_session(tmp_path / "model.onnx", optimized=tmp_path / "optimized.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "LayerNormalization" in kinds
    assert "SkipLayerNormalization" not in kinds
    with torch.no_grad():
        torch.testing.assert_close(session_runner(session)([x])[0], model(x), rtol=1e-5, atol=1e-5)


class Turned(nn.Module):
    """A rounded value that is moved before a layer reads it, beside a layer of which the weight alone has few bits."""

    def __init__(self):
        super().__init__()
        self.table, self.inner, self.last = nn.Embedding(9, 16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, index):
        return self.last(self.inner(self.table(index).transpose(0, 1)))


def test_signed_integers_that_are_moved_are_loaded_beside_weights_in_four_bits():
    torch.manual_seed(0)
    model, x = Turned(), torch.randint(0, 9, (4, 3))
    config = [
        {"quant_types": ["weight"], "quant_bits": 4, "op_names": ["last"]},  # makes it a file of opset 21
        {"quant_types": ["output"], "quant_bits": 8, "quant_scheme": "symmetric", "op_names": ["table"]},
    ]
    QAT_Quantizer(model, config).compress()
    model.train()(x)
    engine = ModelSpeedupONNXRuntime(model.eval(), dummy_input=x)
    engine.compress()
    assert [site.step.dtype for site in engine.program.sites] == [torch.int8]
    with torch.no_grad():
        torch.testing.assert_close(engine.inference(x)[0], model(x))
    assert verify(engine, x).ok


class Between(nn.Module):
    """A layer of channels of very different size, between two that are rounded."""

    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 3, padding=1), middle, nn.Conv2d(8, 4, 1)
        self.middle.weight.data *= torch.logspace(-2, 0, 8).reshape(8, 1, 1, 1)

    def forward(self, x):
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


@pytest.mark.parametrize(
    "middle",
    [nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)],
    ids=["conv", "transposed", "without a bias"],
)
def test_a_float_layer_between_roundings_stays_float(middle):
    """By itself ONNX Runtime rounds its weights to eight bits, with one scale for all channels."""
    model, x = Between(middle).eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = ModelSpeedupONNXRuntime(model, dummy_input=x, calib_data_loader=[x], exclude=["middle"])
    made.compress()
    assert made.made().integers == ("first", "last")
    assert verify(made, x).ok
    assert snr(made.made()(x), made.inference(x)[0]) > 50


def test_layers_in_eight_bits_have_integer_kernels_and_biases(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 4), nn.ReLU())
    x = torch.randn(2, 3, 6, 6)
    write_qdq(build_program(model.eval(), x, calibration=[x]), tmp_path / "model.onnx")
    (tmp_path / "ready.onnx").write_bytes(unpacked(tmp_path / "model.onnx"))
    onnx_session(tmp_path / "ready.onnx", optimized=tmp_path / "optimized.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2
    assert kinds.count("QGemm") == 1
    assert not {"Conv", "FusedConv", "Gemm", "MatMul"}.intersection(kinds)
    graph = onnx.load(tmp_path / "ready.onnx").graph
    biases = [tensor.data_type for tensor in graph.initializer if tensor.name.endswith("(bias) codes")]
    assert biases == [onnx.TensorProto.INT32] * 3


@pytest.mark.parametrize("folded", [False, True], ids=["pruned", "switched off by a norm"])
def test_the_bias_of_a_channel_without_weights_is_exact(folded):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 1, bias=not folded), nn.BatchNorm2d(8) if folded else nn.Identity()
    model, x = nn.Sequential(conv, norm).eval(), 100 * torch.rand(2, 3, 5, 5)
    scaled = norm if folded else conv
    scaled.weight.data *= 0.01
    scaled.weight.data[2:] = 0
    scaled.bias.data.copy_(torch.linspace(-1, 1, 8))
    engine = ModelSpeedupONNXRuntime(model, dummy_input=x, calib_data_loader=[x])
    engine.compress()
    with torch.no_grad():
        assert float((engine.inference(x)[0] - model(x))[:, 2:].abs().max()) < 0.6 * engine.program.sites[-1].step.scale
    assert verify(engine, x).ok


def test_a_bias_that_no_integer_can_hold_stays_a_float(tmp_path):
    """A file of somebody else's: ours have steps that are wide enough."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU())
    x = torch.randn(2, 3, 6, 6)
    write_qdq(build_program(model.eval(), x, calibration=[x]), tmp_path / "model.onnx")
    file = onnx.load(tmp_path / "model.onnx")
    bias = next(tensor for tensor in file.graph.initializer if tensor.name == "0.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(torch.full((8,), 1e6).numpy(), bias.name))
    onnx.save(file, tmp_path / "model.onnx")
    graph = onnx.load_from_string(unpacked(tmp_path / "model.onnx")).graph
    biases = [tensor.dims for tensor in graph.initializer if tensor.name.endswith("(bias) codes")]
    assert biases == [[4]]
