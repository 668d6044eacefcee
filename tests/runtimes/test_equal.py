"""What a model computes twice by equal code is computed and rounded once, and runtimes get the same numbers."""

from __future__ import annotations

from itertools import product

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchpare.quantization import QAT_Quantizer
from torchpare.runtimes import RUNTIMES, build_program, verify
from torchpare.runtimes.equal import merge_equal
from torchpare.runtimes.operators import is_quantize
from torchpare.runtimes.qdq import site_value
from torchpare.runtimes.record import record

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """A convolution, two linear layers on it, and what the subclasses do between them, twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.left, self.right = nn.Conv2d(3, 16, 3), nn.Linear(16, 8), nn.Linear(16, 8)
        self.norm, self.other = nn.LayerNorm(16), nn.LayerNorm(16)
        self.batch_norm = nn.BatchNorm2d(16)


class Largest(Two):
    def forward(self, x):
        x = self.conv(x)
        return self.left(x.amax((2, 3))) + self.right(x.amax((2, 3)))


class Moved(Two):
    def forward(self, x):
        x = self.conv(x)
        return self.left(x.view(len(x), 16, -1).mT) + self.right(x.view(len(x), 16, -1).mT)


class Branches(Two):
    def forward(self, x):
        left = F.relu(self.batch_norm(self.conv(x))).mean((2, 3))
        return self.left(left) + self.right(F.relu(self.batch_norm(self.conv(x))).mean((2, 3)))


class Called(Two):
    def forward(self, x):
        x = self.conv(x).sum((2, 3))
        return self.left(F.gelu(x)), self.left(F.gelu(x))


class Norms(Two):
    """Two norms that hold the same numbers, which only exporters take for one."""

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.left(self.norm(x)) + self.right(self.other(x))


class Words(Two):
    """Two operators that exporters have one word for."""

    def forward(self, x):
        x = self.conv(x).flatten(2)
        return self.left(F.relu(x.transpose(1, 2))) + self.right(F.relu(x.permute(0, 2, 1)))


@pytest.mark.parametrize("quantized", [False, True], ids=["calibrated", "quantized"])
@pytest.mark.parametrize(
    ("runtime", "kind"),
    [*product(["onnxruntime", "openvino"], [Largest, Moved, Branches, Called, Norms, Words]), ("executorch", Largest)],
)
def test_runtimes_compute_it_once(runtime, kind, quantized):
    pytest.importorskip(runtime)
    model = kind()
    if quantized:
        entry = {"quant_types": ["input", "weight", "output"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}
        QAT_Quantizer(model, [entry]).compress()
        model.train()(X)
    engine = RUNTIMES[runtime](model.eval(), dummy_input=X, calib_data_loader=[X])
    engine.compress()
    assert verify(engine, X).ok
    with torch.no_grad():
        torch.testing.assert_close(engine.inference(X)[0], model(X), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", [Largest, Moved, Branches, Called])
def test_the_program_and_the_file_round_it_once(kind, tmp_path):
    engine = RUNTIMES["onnxruntime"](kind().eval(), dummy_input=X, calib_data_loader=[X])
    engine.compress()
    engine.export_quantized_model(tmp_path / "two.onnx")
    nodes = onnx.load(tmp_path / "two.onnx").graph.node
    rounded = [node.output[0] for node in nodes if node.op_type == "QuantizeLinear"]
    assert rounded == [site_value(site) for site in engine.program.sites]
    assert sum(node.op_type == "Conv" for node in nodes) == 1


def test_a_convolution_whose_activation_is_called_twice_takes_it_in():
    program = build_program(Branches().eval(), X, calibration=[X])
    assert [site.name for site in program.sites] == ["x.input", "relu", "mean"]


@pytest.mark.parametrize("kind", [Norms, Words])
def test_sites_that_the_exporter_merges_keep_their_names(kind, tmp_path):
    engine = RUNTIMES["onnxruntime"](kind().eval(), dummy_input=X, calib_data_loader=[X])
    engine.compress()
    engine.export_quantized_model(tmp_path / "two.onnx")
    nodes = onnx.load(tmp_path / "two.onnx").graph.node
    made = {name: node.op_type for node in nodes for name in node.output}
    kinds = [made[site_value(site)] for site in engine.program.sites]
    assert kinds.count("Identity") == 1
    assert kinds.count("QuantizeLinear") == len(kinds) - 1


def test_what_only_looks_equal_is_not_merged():
    class Unequal(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return (
                x + 1,
                x + 1.0,
                x * self.first,
                x * self.second,
                torch.rand_like(self.first),
                torch.rand_like(self.first),
            )

    x = torch.arange(4)
    module = record(Unequal(), x)
    before = len(module.graph.nodes)
    merge_equal(module)
    assert len(module.graph.nodes) == before
    whole, real, *_, noise, other = module(x)
    assert whole.dtype == torch.int64
    assert real.dtype == torch.float32
    assert not torch.equal(noise, other)


def test_outputs_and_several_results_of_one_operator_are_merged():
    class Pieces(nn.Module):
        def forward(self, x):
            low, high = x.chunk(2, 1)
            again, top = x.chunk(2, 1)
            return low * high, again * top

    module = record(Pieces(), X[:, :2])
    merge_equal(module)
    assert sum(node.op == "call_function" for node in module.graph.nodes) == 4  # chunk, its two results, the product
    first, second = module(X[:, :2])
    assert torch.equal(first, X[:, :1] * X[:, 1:2])
    assert torch.equal(first, second)


def test_equal_roundings_are_one():
    program = build_program(Largest().eval(), X, calibration=[X])
    assert sum(is_quantize(node) for node in program.module.graph.nodes) == len(program.sites) == 3
