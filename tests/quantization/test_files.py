"""Calibrations and exports: what is in them, whose files are understood, and what is refused."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from tests.quantization.flows import Net, batch, train
from torchpare.errors import ExportError, FileError, QuantizationError
from torchpare.quantization import LsqQuantizer, NaiveQuantizer, ObserverQuantizer, QAT_Quantizer

EVERYTHING = [{"quant_types": ["weight", "input", "output"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]
X = batch()[0]


def trained(kind=QAT_Quantizer, config_list=EVERYTHING):
    torch.manual_seed(0)
    model = Net()
    quantizer = kind(model, config_list)
    if kind is ObserverQuantizer:
        quantizer.calibrate([X])
    model = quantizer.compress()
    train(model)
    return model.eval(), quantizer


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_a_calibration_speaks_both_versions_of_the_format(tmp_path):
    model, quantizer = trained()
    calibration = quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    on_disk = torch.load(tmp_path / "calibration.pth", weights_only=True)
    own = on_disk["fc"]
    assert {key: type(value) for key, value in own.items()} == {
        key: type(value) for key, value in calibration["fc"].items()
    }
    assert own["weight_bit"] == own["weight_bits"] == own["input_bit"] == own["input_bits"] == 8
    assert own["activation_bit"] == own["output_bits"] == 8
    assert own["tracked_max_activation"] == own["tracked_max_output"]
    assert torch.equal(own["weight_scale"], model.fc.scale)
    # A runtime that works its scale out of the range comes to the same one.
    scale = (own["tracked_max_input"] - own["tracked_min_input"]) / 255
    assert scale == pytest.approx(float(own["input_scale"]), rel=1e-6)
    assert own["tracked_qmin_input"] == 0
    assert own["tracked_qmax_input"] == 255


@pytest.mark.parametrize("kind", [QAT_Quantizer, LsqQuantizer, ObserverQuantizer])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_calibration_taken_over_gives_the_same_model(kind, as_file, tmp_path):
    model, quantizer = trained(kind)
    calibration = quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    other = Net()
    other.load_state_dict({key: value for key, value in model.state_dict().items() if key in other.state_dict()})
    again = kind(other, EVERYTHING)
    other = again.compress()
    again.load_calibration_config(tmp_path / "calibration.pth" if as_file else calibration)
    torch.testing.assert_close(other.eval()(X), model(X), rtol=1e-5, atol=1e-5)
    for name in ("conv1", "conv2", "fc"):
        ours, theirs = model.get_submodule(name), other.get_submodule(name)
        assert torch.equal(ours.input_quantizer.qparams(X)[0], theirs.input_quantizer.qparams(X)[0])


def test_a_calibration_of_the_earlier_toolkit_sets_the_ranges():
    model = Net()
    asked = [{"quant_types": ["input", "output"], "quant_bits": 8, "op_names": ["conv1", "fc"]}]
    quantizer = QAT_Quantizer(model, asked)
    quantizer.compress()
    nni = {
        "conv1": {"weight_bit": 8, "input_bit": 8, "tracked_min_input": -1.0, "tracked_max_input": 4.1},
        "fc": {"activation_bit": 8, "tracked_min_activation": torch.tensor([0.0]),
               "tracked_max_activation": torch.tensor([25.5])},
    }  # fmt: skip
    quantizer.load_calibration_config(nni)
    assert float(model.conv1.input_quantizer.scale) == pytest.approx(5.1 / 255)
    assert int(model.conv1.input_quantizer.zero_point) == 50
    assert float(model.fc.output_quantizer.scale) == pytest.approx(0.1)
    assert model.fc.output_quantizer.active


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conv9": {"weight_bit": 8}}, "conv9"),
        ({"fc": {"weight_bit": 4}}, "4 bits for 'fc'"),
        ({"fc": {"input_scale": torch.tensor(-1.0), "input_zero_point": torch.tensor(0)}}, "'fc', input"),
        ({"fc": {"input_scale": torch.tensor(1.0), "input_zero_point": torch.tensor(0.5)}}, "zero points whole"),
        ({"fc": {"input_scale": torch.ones(3), "input_zero_point": torch.zeros(3)}}, r"shape \(3,\)"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_and_nothing_is_taken_over(change, said):
    model, quantizer = trained()
    before = snapshot(model)
    with pytest.raises(QuantizationError, match=said):
        quantizer.load_calibration_config({"conv1": {"tracked_min_input": 0.0, "tracked_max_input": 1.0}, **change})
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("case", ["missing", "truncated", "foreign", "code", "list", "names", "nan"])
def test_a_file_that_is_no_calibration_is_named_and_runs_no_code(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, quantizer = trained()
    path = tmp_path / "calibration.pth"
    quantizer.export_model(tmp_path / "model.pth", path)
    if case == "missing":
        path = tmp_path / "other.pth"
    elif case == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif case == "foreign":
        path.write_text("no such thing")
    elif case == "code":
        path.write_bytes(pickle.dumps(Hostile()))
    elif case == "list":
        torch.save([1, 2], path)
    elif case == "names":
        torch.save({"fc": {"weight_bit": "eight"}}, path)
    else:
        torch.save({"fc": {"tracked_max_input": float("nan")}}, path)
    with pytest.raises(FileError, match="calibration"):
        quantizer.load_calibration_config(path)
    assert not (tmp_path / "pwned").exists()


def test_exports_need_a_quantized_model_and_an_input_for_a_graph(tmp_path):
    quantizer = NaiveQuantizer(Net())
    with pytest.raises(QuantizationError, match="call compress"):
        quantizer.export_model(tmp_path / "model.pth")
    with pytest.raises(QuantizationError, match="call compress"):
        quantizer.load_calibration_config({})
    quantizer.compress()
    with pytest.raises(ExportError, match="input_shape"):
        quantizer.export_model(tmp_path / "model.pth", onnx_path=tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_the_old_files(tmp_path):
    _, quantizer = trained()
    quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ExportError):
        quantizer.export_model(
            tmp_path / "model.pth", tmp_path / "calibration.pth", tmp_path / "model.onnx", input_shape=[1, 7, 6, 6]
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
