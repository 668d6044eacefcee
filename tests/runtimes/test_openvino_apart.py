"""Joined tokens and largest values that are rounded: OpenVINO compiles them, and computes them rightly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from torchpare.runtimes import ModelSpeedupOpenVINO, verify
from torchpare.runtimes.openvino_apart import with_roundings_apart
from torchpare.runtimes.verify import snr

pytest.importorskip("openvino")


class Joined(nn.Module):
    """Two rows of tokens, one after the other, and a linear layer on all of them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.one, self.other, self.last = kind, nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, x):
        token = self.token.expand(len(x), -1, -1)
        beside = {"layers": self.other(x), "token": token, "input": x, "moved": x}[self.kind]
        both = torch.cat([beside, self.one(x)], 1)
        return self.last(both.transpose(0, 1) if self.kind == "moved" else both)


def engine(model):
    batches = list(torch.randn(3, 2, 6, 16, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(model.eval(), dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    return made, batches[0]


@pytest.mark.parametrize("kind", ["layers", "token", "input", "moved"])
def test_tokens_are_joined_for_a_linear_layer(kind):
    made, x = engine(Joined(kind))
    assert "last" in made.made().integers
    assert snr(made.made()(x), made.inference(x)[0]) > 60
    assert verify(made, x).ok


def test_channels_that_are_joined_stay_as_they_are():
    class Channels(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x):
            return self.last(torch.cat([self.one(x), self.other(x)], 1))

    x = torch.randn(2, 3, 8, 8)
    made = ModelSpeedupOpenVINO(Channels().eval(), dummy_input=x, calib_data_loader=[x])
    made.compress()
    assert with_roundings_apart(onnx.load(str(made.file))) == onnx.load(str(made.file))


class Extreme(nn.Module):
    """The largest or smallest value of each column, in some form, for a linear layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.last = kind, nn.Linear(16, 8)

    def forward(self, x):
        found = {"largest": lambda: x.amax(1), "smallest": lambda: x.amin(1), "turned": lambda: -((-x).amax(1)),
                 "kept": lambda: torch.relu(x.amax(1, keepdim=True) * 0.5)}[self.kind]()  # fmt: skip
        return self.last(found)


@pytest.mark.parametrize("kind", ["largest", "smallest", "turned", "kept"])
def test_extreme_values_are_rounded_rightly(kind):
    made, x = engine(Extreme(kind))
    assert made.made().integers == ("last",)
    assert snr(made.made()(x), made.inference(x)[0]) > 60  # 9 where OpenVINO is left to itself
    assert verify(made, x).ok


@pytest.mark.parametrize(("version", "places"), [(13, 1), (12, 1), (13, 4)], ids=["new", "old", "by place"])
def test_files_of_others_are_edited_where_that_can_be_written(version, places):
    step, zero = np.full(places, 0.1, np.float32), np.full(places, 128, np.uint8)
    grid = ["step", "zero"]
    nodes = [
        onnx.helper.make_node("ReduceMax", ["x"], ["largest"], axes=[1]),
        onnx.helper.make_node("QuantizeLinear", ["largest", *grid], ["codes"], axis=1),
        onnx.helper.make_node("DequantizeLinear", ["codes", *grid], ["made"], axis=1),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, size, 4]) for name, size in
            (("x", 3), ("made", 1))]  # fmt: skip
    held = [onnx.numpy_helper.from_array(array.squeeze() if places == 1 else array, name)
            for name, array in (("step", step), ("zero", zero))]  # fmt: skip
    graph = onnx.helper.make_graph(nodes, "others", ends[:1], ends[1:], held)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    before = model.SerializeToString()
    edited = with_roundings_apart(model)
    assert (edited.SerializeToString() != before) == (version == 13 and places == 1)


@pytest.mark.parametrize("kind", ["channels", "both", "squeezed"])
def test_extreme_values_that_are_joined_for_a_convolution_are_rounded_rightly(kind):
    class Looks(nn.Module):
        """What attention over places looks at: the largest and the mean channel."""

        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(16, 4, 1) if kind == "squeezed" else nn.Conv2d(2, 1, 3)

        def forward(self, x):
            axes = (2, 3) if kind == "squeezed" else (1,)
            other = x.amin(axes, keepdim=True) if kind == "both" else x.mean(axes, keepdim=True)
            return self.last(torch.cat([x.amax(axes, keepdim=True), other], 1))

    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    made = ModelSpeedupOpenVINO(Looks().eval(), dummy_input=x, calib_data_loader=[x])
    made.compress()
    assert made.made().integers == ("last",)
    assert snr(made.made()(x), made.inference(x)[0]) > 60  # 4 to 17 where OpenVINO is left to itself
    assert verify(made, x).ok
