"""One table, many laws: what holds for every runtime, whatever executes the program there."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract.test_every_quantizer import EVERY_QUANTIZER, X
from tests.quantization.flows import Net, batch
from torchpare.errors import ExportError, FileError, MissingExtraError
from torchpare.quantization import NaiveQuantizer
from torchpare.runtimes import (
    RUNTIMES,
    ModelSpeedupExecuTorch,
    ModelSpeedupInductor,
    ModelSpeedupONNXRuntime,
    ModelSpeedupOpenVINO,
    ModelSpeedupRuntime,
    ModelSpeedupTensorRT,
    Runtime,
    verify,
)

BATCHES = [batch(seed)[0] for seed in range(3)]


@dataclass(frozen=True)
class Case:
    """A runtime, what it needs, and what it is known not to do."""

    kind: type[ModelSpeedupRuntime]
    library: str
    any_batch: bool = True

    def __str__(self) -> str:
        return self.kind.runtime

    @property
    def runs(self) -> bool:
        return importlib.util.find_spec(self.library) is not None

    def on(self, model: nn.Module, **options: Any) -> ModelSpeedupRuntime:
        made = self.kind(model, **({"dummy_input": X} | options), threads=1)
        made.compress()
        return made


def each(*cases: Case) -> pytest.MarkDecorator:
    marks = {ModelSpeedupInductor: [pytest.mark.slow]}  # a C++ compiler is called
    return pytest.mark.parametrize(
        "case",
        [pytest.param(case, id=str(case), marks=[
            *marks.get(case.kind, []),
            # `make test` installs all of them: there, one that is missing fails.
            pytest.mark.skipif(not case.runs and "CI" not in os.environ, reason=f"{case.library} is not installed"),
        ]) for case in cases],
    )  # fmt: skip


ONNX = Case(ModelSpeedupONNXRuntime, "onnxruntime")
OPENVINO = Case(ModelSpeedupOpenVINO, "openvino")
INDUCTOR = Case(ModelSpeedupInductor, "torch")
EXECUTORCH = Case(ModelSpeedupExecuTorch, "executorch", any_batch=False)
every_runtime = each(ONNX, OPENVINO, INDUCTOR, EXECUTORCH)
quick_runtimes = each(ONNX, OPENVINO, EXECUTORCH)
file_runtimes = each(ONNX, OPENVINO)


def plain() -> nn.Module:
    torch.manual_seed(5)
    return Net().eval()


@pytest.fixture(scope="module")
def compiled():
    """A plain net and batches, in a runtime; made once for each."""
    known: dict[Case, ModelSpeedupRuntime] = {}

    def get(case: Case) -> ModelSpeedupRuntime:
        if case not in known:
            known[case] = case.on(plain(), calib_data_loader=BATCHES)
        return known[case]

    return get


@every_runtime
def test_its_numbers_are_those_of_fake_quantization(case, compiled):
    proof = verify(compiled(case), X)
    assert proof.ok, proof.to_dict()
    assert [layer.name for layer in proof.layers] == [*(site.name for site in compiled(case).program.sites), "output 0"]
    assert all(layer.within == 1 for layer in proof.layers[:-1])
    assert proof.layers[-1].snr > 60
    assert 30 < proof.model_snr < 80


@quick_runtimes
@pytest.mark.parametrize("quantizer", EVERY_QUANTIZER, ids=str)
def test_every_quantizer_computes_in_it_what_it_does_in_pytorch(case, quantizer):
    model, _ = quantizer.ready()
    runtime = case.on(model)
    proof = verify(runtime, X)
    assert proof.ok, proof.to_dict()
    with torch.no_grad():
        want = model(X)
    output, _ = runtime.inference(X)
    # A last bit that falls the other way is one step of the output's own grid.
    quantized = model.fc.output_quantizer if hasattr(model.fc, "output_quantizer") else None
    step = float(quantized.qparams(torch.empty(0))[0].detach()) if quantized is not None else 0.0
    assert float((output - want).abs().max()) <= step * 1.01 + 1e-4 * float(want.abs().max())


@every_runtime
def test_inference_gives_the_output_and_the_seconds_and_leaves_the_model_alone(case, compiled):
    runtime = compiled(case)
    before = {key: value.clone() for key, value in runtime.model.state_dict().items()}
    output, seconds = runtime.inference(X)
    assert output.shape == (8, 4)
    assert output.dtype == torch.float32
    assert 0 < seconds < 60
    assert torch.equal(runtime.inference(X)[0], output)
    assert all(torch.equal(runtime.model.state_dict()[key], value) for key, value in before.items())
    assert isinstance(runtime, Runtime)


@every_runtime
def test_what_it_exports_computes_the_same_where_it_is_loaded(case, compiled, tmp_path):
    runtime = compiled(case)
    output, _ = runtime.inference(X)
    runtime.export_quantized_model(tmp_path / "model.bin")
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
    again = case.kind(nn.Identity(), dummy_input=X, threads=1)
    again.load_quantized_model(tmp_path / "model.bin")
    assert torch.equal(again.inference(X)[0], output)
    again.export_quantized_model(tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "model.bin").read_bytes()


@every_runtime
def test_any_batch_size_runs_or_is_refused_in_words(case, compiled):
    runtime = compiled(case)
    whole, _ = runtime.inference(X)
    for size in (1, 3):
        if case.any_batch:
            torch.testing.assert_close(runtime.inference(X[:size])[0], whole[:size], rtol=1e-4, atol=1e-4)
        else:
            with pytest.raises(ExportError, match=r"cannot run the program on inputs of shapes"):
                runtime.inference(X[:size])


class Mixed(nn.Module):
    """Several inputs, a dict of outputs, and something that no kernel does in eight bits."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids, weights):
        x = torch.erf(self.mix(self.embed(ids)))
        return {"scores": self.head(x) * weights, "hidden": x}


@quick_runtimes
def test_several_inputs_and_outputs_and_layers_that_stay_float(case):
    given = {"weights": torch.rand(2, 5, 1), "ids": torch.randint(0, 9, (2, 5))}
    model = Mixed().eval()
    NaiveQuantizer(model, [{"op_types": ["Linear", "Embedding"]}, {"exclude": True, "op_names": ["head"]}]).compress()
    runtime = case.on(model, dummy_input=given)
    output, _ = runtime.inference(dict(reversed(given.items())))
    with torch.no_grad():
        want = model(**given)
    assert output.keys() == want.keys()
    for key in want:
        torch.testing.assert_close(output[key], want[key], rtol=1e-3, atol=1e-4)
    assert runtime.program.integers == ()
    reasons = {place.name: place.reason for place in runtime.program.floats}
    assert "no grid" in reasons["mix"]
    assert reasons["head"] == "its weight is not in eight bits"


@file_runtimes
def test_a_calibration_file_of_a_quantizer_is_all_it_needs(case, tmp_path):
    model, quantizer = EVERY_QUANTIZER[2].ready()
    quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    runtime = case.on(Net.of(state), config=tmp_path / "calibration.pth")
    assert set(runtime.program.integers) == {"conv1", "conv2", "fc"}
    assert torch.equal(runtime.inference(X)[0], case.on(model).inference(X)[0])


@file_runtimes
def test_input_shape_is_enough_for_a_model_of_one_input(case):
    runtime = case.on(plain(), dummy_input=None, input_shape=[1, 3, 6, 6], calib_data_loader=BATCHES)
    assert runtime.inference(X)[0].shape == (8, 4)


@every_runtime
def test_what_is_asked_too_early_or_wrongly_is_told(case, tmp_path, compiled):
    fresh = case.kind(plain(), [1, 3, 6, 6])
    with pytest.raises(ExportError, match=r"inference\(\) needs a program: call compress\(\)"):
        fresh.inference(X)
    with pytest.raises(ExportError, match=r"export_quantized_model\(\) needs a program"):
        fresh.export_quantized_model(tmp_path / "model.bin")
    with pytest.raises(ExportError, match="no program to compare with"):
        verify(fresh, X)
    with pytest.raises(ExportError, match=r"there is no file .*none\.bin"):
        fresh.load_quantized_model(tmp_path / "none.bin")
    (tmp_path / "foreign.bin").write_bytes(b"something else")
    with pytest.raises(ExportError):
        fresh.load_quantized_model(tmp_path / "foreign.bin")
    for wrong in ({}, {"input_shape": [1, 3, 6, 6], "dummy_input": X}):
        with pytest.raises(ExportError, match="either input_shape"):
            case.kind(plain(), **wrong)
    with pytest.raises(FileError, match="there is no folder"):
        compiled(case).export_quantized_model(tmp_path / "nowhere" / "model.bin")
    with pytest.raises(ExportError, match=r"cannot run the program on inputs of shapes \[\(8, 2, 6, 6,"):
        compiled(case).inference(X[:, :2])


@pytest.mark.parametrize(
    ("kind", "library", "extra"),
    [
        (ModelSpeedupONNXRuntime, "onnxruntime", "onnx"),
        (ModelSpeedupOpenVINO, "openvino", "openvino"),
        (ModelSpeedupExecuTorch, "executorch", "executorch"),
        (ModelSpeedupTensorRT, "tensorrt", "tensorrt"),
    ],
)
def test_a_missing_library_names_the_extra(monkeypatch, kind, library, extra):
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    runtime = kind(plain(), dummy_input=X, calib_data_loader=None)
    if kind is ModelSpeedupTensorRT:
        runtime.compress()  # the file is made without it
    with pytest.raises(MissingExtraError, match=rf"{library} is not installed.*pip install 'torchpare\[{extra}\]'"):
        (runtime.inference if kind is ModelSpeedupTensorRT else lambda _: runtime.compress())(X)


def test_tensorrt_gets_a_valid_file_of_symmetric_grids_and_others_are_named(tmp_path):
    entry = {"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}
    for scheme in ("symmetric", "affine"):
        case = EVERY_QUANTIZER[1]
        model = Net()
        quantizer = case.quantizer(model, [{**entry, "quant_scheme": {"input": scheme}}])
        quantizer.compress()
        model.train()(X)
        runtime = ModelSpeedupTensorRT(model.eval(), dummy_input=X)
        if scheme == "affine":
            with pytest.raises(ExportError, match=r"symmetric int8 grids, and 3 sites have others, the first 'conv1"):
                runtime.compress()
            continue
        runtime.compress()
        runtime.export_quantized_model(tmp_path / "model.onnx")
        onnx = case_on_file(tmp_path / "model.onnx")
        assert float((onnx - runtime.model_output(X)).abs().max()) < 1e-3 * float(onnx.abs().max())


def test_a_plain_model_is_calibrated_on_grids_that_tensorrt_takes(tmp_path):
    runtime = ModelSpeedupTensorRT(plain(), dummy_input=X, calib_data_loader=[X])
    runtime.compress()
    runtime.export_quantized_model(tmp_path / "model.onnx")
    assert runtime.program is not None
    assert runtime.program.sites
    assert all(site.step.zero_point == 0 and site.step.dtype is torch.int8 for site in runtime.program.sites)
    onnx = case_on_file(tmp_path / "model.onnx")
    assert float((onnx - runtime.model_output(X)).abs().max()) < 0.1 * float(onnx.abs().max())


def case_on_file(path):
    """What ONNX Runtime computes of a file that was made for another runtime."""
    runtime = ModelSpeedupONNXRuntime(nn.Identity(), dummy_input=X, threads=1)
    runtime.load_quantized_model(path)
    return runtime.inference(X)[0]


@file_runtimes
@pytest.mark.parametrize("part", ["codes", "scale"])
def test_a_tampered_weight_is_found_and_its_layer_named_first(case, tmp_path, part):
    import onnx

    runtime = case.on(plain(), calib_data_loader=BATCHES)
    model = onnx.load(runtime.file)
    read = next(node.input for node in model.graph.node if "conv2.weight" in "".join(node.input[:1]))
    name = read[0] if part == "codes" else read[1]
    tensor = next(each for each in model.graph.initializer if each.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] = -values[0] if part == "codes" else 2 * values[0]
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "tampered.onnx")
    runtime.load_quantized_model(tmp_path / "tampered.onnx")
    proof = verify(runtime, X)
    assert_conv2_is_named(proof)
    told = proof.to_dict()
    assert told["first_offending"] == "conv2.output"
    assert all(value is None or math.isfinite(value) for row in told["layers"] for value in (row["snr"],))


@each(INDUCTOR, EXECUTORCH)
def test_a_scale_that_goes_wrong_where_the_runtime_takes_the_program_is_found_and_its_layer_named(case, monkeypatch):
    module = sys.modules[case.kind.__module__]
    name = {INDUCTOR: "for_inductor", EXECUTORCH: "for_xnnpack"}[case]
    real = getattr(module, name)

    def wrong(*given):
        made = real(*given)
        made.get_buffer("conv2.weight_scale")[0] *= 2
        return made

    monkeypatch.setattr(module, name, wrong)
    assert_conv2_is_named(verify(case.on(plain(), calib_data_loader=BATCHES), X))


def assert_conv2_is_named(proof):
    """That and no other layer: what comes after it was run on the right numbers."""
    assert not proof.ok
    assert proof.first_offending.name == "conv2.output"
    assert [layer.name for layer in proof.layers if not layer.ok] == ["conv2.output"]
    assert proof.layers[-1].snr_in_whole < proof.layers[-1].snr


@each(EXECUTORCH)
def test_a_file_that_is_not_of_the_program_is_found_by_its_output(case, tmp_path):
    runtime = case.on(plain(), calib_data_loader=BATCHES)
    other = plain()
    other.fc.weight.data *= -1
    case.on(other, calib_data_loader=BATCHES).export_quantized_model(tmp_path / "other.pte")
    runtime.load_quantized_model(tmp_path / "other.pte")
    proof = verify(runtime, X)
    assert [layer.name for layer in proof.layers if not layer.ok] == ["output 0"]


@file_runtimes
def test_a_channel_that_its_norm_has_switched_off_does_not_overflow_the_integers_of_its_bias(case):
    model = plain()
    model.bn1.weight.data[:2] = torch.tensor([1e-9, -1e-12])
    model.bn1.bias.data.fill_(0.7)
    runtime = case.on(model, calib_data_loader=BATCHES)
    proof = verify(runtime, X)
    assert proof.ok, proof.to_dict()
    assert all(layer.within == 1 for layer in proof.layers if layer.within is not None)
    assert proof.model_snr > 30


class OneBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x):
        return self.linear(x.view(2, 6))


@quick_runtimes
def test_a_model_of_one_batch_size_runs_with_that(case):
    x = torch.randn(2, 6)
    model = OneBatch().eval()
    runtime = case.on(model, dummy_input=x, calib_data_loader=[x])
    torch.testing.assert_close(runtime.inference(x)[0], runtime.program(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(ExportError, match="cannot run the program"):
        runtime.inference(torch.randn(3, 6))


def test_the_command_line_knows_every_runtime():
    assert {kind.runtime for kind in RUNTIMES.values()} == {
        "ONNX Runtime", "OpenVINO", "inductor", "ExecuTorch", "TensorRT",
    }  # fmt: skip
