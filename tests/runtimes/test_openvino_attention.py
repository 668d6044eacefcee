"""What attention returns is rounded before its heads are brought together, and keys are read as they lie: the same
numbers."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.quantization import ObserverQuantizer
from torchpare.runtimes import ModelSpeedupOpenVINO, verify
from torchpare.runtimes.onnxruntime import onnx_session, session_runner
from torchpare.runtimes.openvino_attention import with_early_roundings, with_rows_of_keys
from torchpare.runtimes.verify import snr

openvino = pytest.importorskip("openvino")


class Attends(nn.Module):
    """Attention between two linear layers; whoever asks gets what the second one reads."""

    def __init__(self, *, shows: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 4)
        self.shows = shows

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        q, k, v = self.qkv(x).view(x.shape[0], 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        together = mixed.reshape(x.shape[0], 6, 16)
        return (self.out(together), mixed) if self.shows else self.out(together)


def engine(**options: bool) -> tuple[ModelSpeedupOpenVINO, Tensor]:
    batches = list(torch.randn(3, 2, 6, 16, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(Attends(**options).eval(), dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    return made, batches[0]


def test_the_rounding_comes_before_the_moves_and_the_file_computes_the_same(tmp_path):
    made, x = engine()
    assert made.file is not None
    model = onnx.load(str(made.file))
    after = with_early_roundings(onnx.load(str(made.file)))
    onnx.checker.check_model(after)
    makers = {name: node for node in after.graph.node for name in node.output}
    rounded = [node for node in after.graph.node if node.op_type == "QuantizeLinear"]
    assert sum(makers[node.input[0]].op_type == "MatMul" for node in rounded if node.input[0] in makers) == 1
    kinds = [sorted(node.op_type for node in each.graph.node) for each in (model, after)]
    assert kinds[0] == kinds[1]
    onnx.save(after, str(tmp_path / "after.onnx"))
    before, now = (session_runner(onnx_session(path))([x])[0] for path in (made.file, tmp_path / "after.onnx"))
    torch.testing.assert_close(before, now, rtol=1e-6, atol=1e-7)


def test_what_others_read_too_stays_where_it_is():
    made, _ = engine(shows=True)
    assert with_early_roundings(onnx.load(str(made.file))) == onnx.load(str(made.file))


def test_openvino_computes_what_the_program_says():
    made, x = engine()
    assert snr(made.made()(x), made.inference(x)[0]) > 60
    assert verify(made, x).ok


def products(model: Any) -> list[bool]:
    """Of each product of two computed values in OpenVINO's model, whether it reads rows for columns."""
    found = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    found = [node for node in found if len(node.get_output_partial_shape(0)) == 4]
    return [node.get_attributes()["transpose_b"] for node in found]


class Apart(nn.Module):
    """Attention with a layer each for queries, keys and values, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).view(x.shape[0], 6, 2, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def apart(model: nn.Module) -> tuple[ModelSpeedupOpenVINO, Tensor]:
    batches = list(torch.randn(3, 2, 6, 16, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(model, dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    return made, batches[0]


def test_keys_are_read_as_they_lie():
    made, x = apart(Apart().eval())
    model = openvino.Core().read_model(str(made.file))
    assert products(model) == [False, False]
    assert products(with_rows_of_keys(model)) == [True, False]
    orders = [
        [int(axis) for axis in node.input_value(1).get_node().get_data()]
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Transpose" and len(node.get_output_partial_shape(0)) == 4
    ]
    assert orders == [[0, 2, 1, 3]] * 4  # queries, keys, values and what comes of them
    assert snr(made.made()(x), made.inference(x)[0]) > 60
    assert verify(made, x).ok


def test_keys_that_are_rounded_are_read_so_too():
    batches = list(torch.randn(3, 2, 6, 16, generator=torch.Generator().manual_seed(0)))
    model = Apart().eval()
    entry = {"quant_types": ["input", "weight", "output"], "quant_bits": 8, "op_types": ["Linear"]}
    ObserverQuantizer(model, [entry], dummy_input=batches[0]).calibrate(batches)
    made, x = apart(model)
    assert snr(made.made()(x), made.inference(x)[0]) > 45
    assert verify(made, x).ok
