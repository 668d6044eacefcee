"""ONNX Runtime reads pictures with a fourth channel of zeros where that is faster: the same integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from torchpare.runtimes import ModelSpeedupONNXRuntime, build_program, verify, write_qdq
from torchpare.runtimes.onnxruntime import onnx_session, session_runner
from torchpare.runtimes.unpacking import unpacked


class Twice(nn.Module):
    """Two layers read the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 8, (1, 5), 2, (0, 2), bias=False)

    def forward(self, x):
        return torch.relu(self.one(x)) + torch.relu(self.other(x))


class Shared(nn.Module):
    """One layer reads two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, 2, 1)

    def forward(self, x):
        return torch.relu(self.one(x)) + torch.relu(self.one(x.flip(3)))


def weights(path):
    """The sizes of the weights of a file's convolutions as ONNX Runtime gets them, in the order of execution."""
    graph = onnx.load_from_string(unpacked(path)).graph
    makers = {name: node for node in graph.node for name in node.output}
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return [sizes[makers[node.input[1]].input[0]] for node in graph.node if node.op_type == "Conv"]


def compressed(model, x, **options):
    torch.manual_seed(0)
    made = ModelSpeedupONNXRuntime(model.eval(), dummy_input=x, calib_data_loader=[x], **options)
    made.compress()
    return made


@pytest.mark.parametrize(
    ("model", "pictures"),
    [(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), 1), (Twice(), 1), (Shared(), 2)],
    ids=["one layer", "two layers", "two pictures"],
)
def test_the_same_integers_come_of_four_channels(model, pictures, tmp_path):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 1  # zero is in the middle of no grid
    made = compressed(model, x)
    sizes = weights(made.file)
    assert [size[1] for size in sizes] == [4] * len(sizes)
    optimized = tmp_path / "optimized.onnx"
    as_it_lies = session_runner(onnx_session(made.file, optimized=optimized))([x])[0]
    torch.testing.assert_close(made.inference(x)[0], as_it_lies, rtol=0, atol=0)
    assert verify(made, x).ok
    (tmp_path / "ready.onnx").write_bytes(unpacked(made.file))
    onnx_session(tmp_path / "ready.onnx", optimized=optimized)
    kinds = [node.op_type for node in onnx.load(optimized).graph.node]
    assert kinds.count("QLinearConv") == len(sizes)
    assert kinds.count("Pad") == pictures


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (nn.Conv2d(3, 8, 4, stride=4), 3),
        (nn.Conv2d(3, 8, 7, stride=2), 3),
        (nn.Conv2d(3, 6, 3, groups=3), 1),
        (nn.Conv2d(5, 8, 3), 5),
        (nn.Conv2d(3, 8, 1), 3),
    ],
    ids=["patches", "large windows", "groups", "more channels", "single places"],
)
def test_others_stay_as_they_are(layer, channels, tmp_path):
    x = torch.randn(2, layer.in_channels, 16, 16)
    model = nn.Sequential(layer, nn.ReLU()).eval()
    write_qdq(build_program(model, x, calibration=[x]), tmp_path / "model.onnx")
    assert [size[1] for size in weights(tmp_path / "model.onnx")] == [channels]


def test_a_layer_that_is_float_stays_as_it_is():
    x = torch.randn(2, 3, 16, 16)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU())
    made = compressed(model, x, exclude=["0"])
    graph = onnx.load_from_string(unpacked(made.file)).graph
    assert not [node for node in graph.node if node.op_type == "Pad"]
    assert verify(made, x).ok


@pytest.mark.parametrize(("version", "kind", "channels"), [(13, "uint8", 4), (10, "uint8", 3), (21, "uint16", 3)])
def test_files_of_others_load_and_compute_the_same(version, kind, channels, tmp_path):
    generator = np.random.default_rng(0)
    held = {"step": np.float32(0.02), "zero": np.array(100, kind), "codes": generator.integers(-99, 99, (8, 3, 3, 3)),
            "own step": np.float32(0.01), "own zero": np.int8(0)}  # fmt: skip
    held["codes"] = held["codes"].astype(np.int8)
    grid = ["step", "zero"]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", *grid], ["rounded"]),
        onnx.helper.make_node("DequantizeLinear", ["rounded", *grid], ["restored"]),
        onnx.helper.make_node("DequantizeLinear", ["codes", "own step", "own zero"], ["weight"]),
        onnx.helper.make_node("Conv", ["restored", "weight"], ["sums"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("QuantizeLinear", ["sums", *grid], ["rounded sums"]),
        onnx.helper.make_node("DequantizeLinear", ["rounded sums", *grid], ["made"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, size, 8, 8]) for name, size in
            (("x", 3), ("made", 8))]  # fmt: skip
    tensors = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
    graph = onnx.helper.make_graph(nodes, "others", ends[:1], ends[1:], tensors)
    path, x = tmp_path / "model.onnx", torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    version = onnx.helper.make_opsetid("", version)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[version], ir_version=10), path)
    assert [size[1] for size in weights(path)] == [channels]
    as_it_lies = session_runner(onnx_session(path, optimized=tmp_path / "optimized.onnx"))([x])[0]
    torch.testing.assert_close(session_runner(onnx_session(path))([x])[0], as_it_lies, rtol=0, atol=0)
