"""The QDQ file: what it holds, that others can read it, and what is refused."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from tests.contract.test_every_quantizer import X
from tests.quantization.flows import Net, batch
from torchpare.errors import ExportError
from torchpare.files.onnx import export_onnx, runner
from torchpare.runtimes import ModelSpeedupONNXRuntime, build_program, verify, write_qdq
from torchpare.runtimes.qdq import check_qdq, site_value

BATCHES = [batch(seed)[0] for seed in range(3)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.manual_seed(0)
    program = build_program(Net().eval(), X, calibration=BATCHES)
    path = tmp_path_factory.mktemp("qdq") / "net.onnx"
    return program, path, write_qdq(program, path)


def test_weights_are_int8_with_a_scale_for_each_channel_and_sites_have_their_names(written):
    program, path, export = written
    assert export.dynamic_batch
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            assert tensors[node.input[0]].data_type == onnx.TensorProto.INT8
            assert tensors[node.input[2]].data_type == onnx.TensorProto.INT8
    kept = [one for one in tensors.values() if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1]
    assert kept == []
    rounded = [node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounded == [site_value(site) for site in program.sites]


def test_the_file_is_a_quarter_of_the_float_one(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 128, 3), nn.ReLU(), nn.Conv2d(128, 128, 3)).eval()
    export_onnx(model, tmp_path / "float.onnx", X)
    write_qdq(build_program(model, X, calibration=BATCHES), tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < 0.27 * (tmp_path / "float.onnx").stat().st_size


def test_an_adaptive_pool_becomes_the_operator_with_an_integer_kernel(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    program = build_program(model, X, calibration=BATCHES)
    write_qdq(program, tmp_path / "pool.onnx")
    assert "GlobalAveragePool" in {node.op_type for node in onnx.load(tmp_path / "pool.onnx").graph.node}
    output = torch.from_numpy(runner(tmp_path / "pool.onnx", X)()[0])
    torch.testing.assert_close(output, program(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [18, 21])
def test_the_opset_may_be_chosen(tmp_path, written, opset):
    program, _, _ = written
    write_qdq(program, tmp_path / "net.onnx", opset_version=opset)
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == opset
    output = torch.from_numpy(runner(tmp_path / "net.onnx", X)()[0])
    torch.testing.assert_close(output, program(X), rtol=1e-3, atol=1e-4)


def test_what_is_no_file_of_this_kind_is_told(tmp_path, written):
    program, _, _ = written
    with pytest.raises(ExportError, match="opset_version is 11; quantization by channel needs 13"):
        write_qdq(program, tmp_path / "old.onnx", opset_version=11)
    with pytest.raises(ExportError, match=r"there is no ONNX file .*none\.onnx"):
        check_qdq(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"bad\.onnx is no valid ONNX model"):
        check_qdq(tmp_path / "bad.onnx")


class Telling(nn.Module):
    """Numbers and nothing beside tensors."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        return {"scores": self.layer(x), "beside": [None, 3, (x, "word")]}


def test_numbers_beside_tensors_are_left_out_of_the_file_and_come_back():
    x = torch.randn(2, 8)
    engine = ModelSpeedupONNXRuntime(Telling().eval(), dummy_input=x, calib_data_loader=[x])
    engine.compress()
    output, _ = engine.inference(x)
    assert output.keys() == {"scores", "beside"}
    assert output["beside"][:2] == [None, 3]
    assert output["beside"][2][1] == "word"
    assert torch.equal(output["beside"][2][0], x)
    assert verify(engine, x).ok
