"""Files that NNI wrote: masks, states with wrappers' names, calibrations of 2.x and 3.0; and files that mean harm."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nni.algorithms.compression.pytorch.pruning import L1FilterPruner
from nni.algorithms.compression.pytorch.quantization import QAT_Quantizer
from nni.compression.pytorch import ModelSpeedup, apply_compression_results
from torch import nn

from torchpare.attach import masks_of
from torchpare.compat.nni.files import load_calibration, load_state, read_masks, read_state
from torchpare.errors import CheckpointError, FileError, MaskError, MaskFileError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3, bias=False))

    def forward(self, x):
        return self.body(self.norm(self.conv1(x)))


X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
KEEP = torch.tensor([1.0, 0.0, 1.0, 0.0])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().eval()


def nni_masks():
    """As 2.3 wrote them: floats of the weights' shapes, None where there is no bias."""
    return {
        "conv1": {"weight": KEEP.view(4, 1, 1, 1).expand(4, 1, 3, 3).clone(), "bias": KEEP.clone()},
        "body.1": {"weight": torch.ones(6, 4, 3, 3), "bias": None},
    }


def wrapped(state, *, masks=True):
    """A state as 2.3 wrote it while its pruner's wrappers stood in the model."""
    found = {}
    for key, value in state.items():
        path, _, name = key.rpartition(".")
        inside = path in ("conv1", "body.1")
        found[f"{path}.module.{name}" if inside else key] = value
    if masks:
        for layer, own in nni_masks().items():
            for name, mask in own.items():
                if mask is not None:
                    found[f"{layer}.{name}_mask"] = mask
    return found


def quantized(state):
    """A state as 2.3's QAT wrote it: the dense weight beside the rounded one, and the quantizer's numbers."""
    found = wrapped(state, masks=False)
    for layer in ("conv1", "body.1"):
        dense = found[f"{layer}.module.weight"]
        found[f"{layer}.module.old_weight"] = dense
        found[f"{layer}.module.weight"] = (dense * 100).round() / 100
        numbers = {"zero_point": 3.0, "scale": 0.01, "ema_decay": 0.99, "weight_bit": 8, "activation_bit": 8,
                   "tracked_min_input": -1.0, "tracked_max_input": 1.0, "tracked_min_activation": -2.0,
                   "tracked_max_activation": 3.0}  # fmt: skip
        found.update({f"{layer}.module.{name}": torch.tensor([value]) for name, value in numbers.items()})
    found["steps"] = torch.tensor([120])
    return found


def test_a_mask_file_of_nni_is_applied_and_shrinks(model, tmp_path):
    torch.save(nni_masks(), tmp_path / "mask.pth")
    apply_compression_results(model, tmp_path / "mask.pth", "cpu")
    assert model.conv1.weight.flatten(1).any(dim=1).tolist() == [True, False, True, False]
    ModelSpeedup(model, X, str(tmp_path / "mask.pth"), torch.device("cpu")).speedup_model()
    assert model.conv1.out_channels == 2


def test_masks_in_a_state_of_wrappers_serve_as_a_mask_file(model, tmp_path):
    torch.save(wrapped(model.state_dict()), tmp_path / "wrapped.pth")
    found = read_masks(tmp_path / "wrapped.pth", model)
    assert found["conv1"]["bias"].tolist() == [True, False, True, False]
    ModelSpeedup(model, X, tmp_path / "wrapped.pth").speedup_model()
    assert model.conv1.out_channels == 2


@pytest.mark.parametrize("form", ["plain", "wrapped", "quantized", "later"])
def test_a_state_of_any_form_has_the_dense_weights_under_the_model_s_names(model, form, tmp_path):
    state = copy.deepcopy(model.state_dict())
    later = {**state, "conv1.module.weight": state["conv1.weight"] * KEEP.view(4, 1, 1, 1)}
    forms = {"plain": state, "wrapped": wrapped(state), "quantized": quantized(state), "later": later}
    torch.save(forms[form], tmp_path / "model.pth")
    found = read_state(tmp_path / "model.pth", Net())
    assert found.weights.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(found.weights[key], value), key
    assert bool(found.masks) == (form == "wrapped")
    assert bool(found.calibration) == (form == "quantized")


def test_a_wrapped_state_is_loaded_with_its_masks(model, tmp_path):
    torch.save(wrapped(model.state_dict()), tmp_path / "model.pth")
    other = Net().eval()
    L1FilterPruner(other, [{"sparsity": 0.5, "op_names": ["conv1"]}]).load_model_state_dict(
        torch.load(tmp_path / "model.pth", weights_only=True)
    )
    assert masks_of(other)["conv1"]["bias"].tolist() == [True, False, True, False]
    plain = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    for key, value in model.state_dict().items():
        assert torch.equal(plain[key], value)


def test_a_quantized_state_is_loaded_with_its_ranges(model, tmp_path):
    torch.save(quantized(model.state_dict()), tmp_path / "model.pth")
    asked = [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["Conv2d"]}]
    other = Net().eval()
    quantizer = QAT_Quantizer(other, asked)
    quantizer.compress()
    quantizer.load_model_state_dict(tmp_path / "model.pth")
    assert torch.equal(other.conv1.old_weight, model.conv1.weight)
    calibration = quantizer.export_model(tmp_path / "out.pth")
    assert calibration["conv1"]["tracked_max_activation"] == pytest.approx(3.0, abs=0.02)
    assert calibration["conv1"]["tracked_min_activation"] == pytest.approx(-2.0, abs=0.02)


@pytest.mark.parametrize(
    "given",
    [
        {"conv1": {"weight_bit": 8, "tracked_min_input": -1.0, "tracked_max_input": 1.0, "activation_bit": 8,
                   "tracked_min_activation": -2.0, "tracked_max_activation": 3.0}},
        {"conv1": {"weight_bits": 8, "weight_scale": torch.ones(4, 1, 1, 1),
                   "weight_zero_point": torch.zeros(4, 1, 1, 1), "output_bits": 8, "tracked_min_output": -2.0,
                   "tracked_max_output": 3.0}},
        {"conv1": {"weight": {"scale": torch.ones(4, 1, 1, 1), "zero_point": torch.zeros(4, 1, 1, 1),
                              "quant_bits": 8, "quant_dtype": "int8", "quant_scheme": "symmetric"},
                   "_output_0": {"quant_bits": 8, "quant_dtype": "uint8", "tracked_min": torch.tensor(-2.0),
                                 "tracked_max": torch.tensor(3.0), "scale": torch.tensor(5 / 255),
                                 "zero_point": torch.tensor(102)}}},
    ],
    ids=["2.3", "2.5", "3.0"],
)  # fmt: skip
def test_a_calibration_of_any_version_is_taken_over(given, model, tmp_path):
    torch.save(given, tmp_path / "calibration.pth")
    quantizer = QAT_Quantizer(model, [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_names": ["conv1"]}])
    quantizer.compress()
    quantizer.load_calibration_config(tmp_path / "calibration.pth")
    found = quantizer.export_model(tmp_path / "model.pth")["conv1"]
    assert found["tracked_min_output"] == pytest.approx(-2.0, abs=0.02)
    assert found["tracked_max_output"] == pytest.approx(3.0, abs=0.02)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s | {"head.weight": torch.ones(2)}, CheckpointError, r"'head\.weight', and Net no such parameter"),
        (
            lambda s: {k: v for k, v in s.items() if "norm" not in k},
            CheckpointError,
            r"no 'norm\.weight'.*nor 4 others",
        ),
        (
            lambda s: s | {"conv1.module.bias": torch.ones(5)},
            CheckpointError,
            r"the shape \(5,\), and the model's \(4,\)",
        ),
        (lambda s: s | {"conv1.weight_mask": torch.ones(3, 1, 3, 3)}, MaskError, r"mask of conv1\.weight has shape"),
        (lambda s: s | {"conv1.bias_mask": torch.full((4,), 0.5)}, MaskError, "values other than 0 and 1"),
        (lambda s: {"conv1": s}, CheckpointError, "is no state dict"),
        (lambda s: [*s.values()], CheckpointError, "is no state dict"),
    ],
)
def test_a_state_that_is_none_of_this_model_is_refused_and_nothing_is_written(model, change, error, message):
    other = Net()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(error, match=message):
        load_state(other, change(wrapped(model.state_dict())))
    assert not masks_of(other)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


class Payload:
    """Unpickled without care, this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


READERS = {
    "state": lambda path: read_state(path, Net()),
    "calibration": load_calibration,
    "masks": read_masks,
    "masks of a model": lambda path: read_masks(path, Net()),
    "speedup": lambda path: ModelSpeedup(Net(), X, path),
    "zeros": lambda path: apply_compression_results(Net(), path),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("wrap", ["torch.save", "pickle"])
def test_code_in_a_pickle_is_not_run(reader, wrap, tmp_path):
    content = {"conv1": {"weight": Payload(tmp_path / "pwned")}}
    path = tmp_path / "file.pth"
    if wrap == "torch.save":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(FileError, match="nothing in it was run"):
        READERS[reader](path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_cut_short_or_missing_is_refused(reader, tmp_path):
    torch.save(nni_masks(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:300])
    for name in ("cut.pth", "missing.pth"):
        with pytest.raises(FileError):
            READERS[reader](tmp_path / name)


@pytest.mark.parametrize("content", [[1], {"conv1": 3}, {"conv1": {"weight": {"scale": "big"}}}, torch.ones(2)])
def test_what_is_no_calibration_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "calibration.pth")
    with pytest.raises(FileError, match="calibration file"):
        load_calibration(tmp_path / "calibration.pth")


def test_a_state_is_no_mask_file_without_the_model_that_tells_names(model, tmp_path):
    torch.save(wrapped(model.state_dict()), tmp_path / "state.pth")
    with pytest.raises(MaskFileError, match="looks like a state_dict"):
        read_masks(tmp_path / "state.pth")
