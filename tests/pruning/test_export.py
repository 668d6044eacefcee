"""What export_model writes and what it refuses; the tutorial's own arguments among it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.pruning.nets import Residual, batch, randomised
from torchpare.attach import attach_mask, is_attached, masks_of
from torchpare.errors import ExportError, FileError
from torchpare.files.masks import load_masks
from torchpare.pruning import L1FilterPruner, LevelPruner
from torchpare.pruning.groups import is_incomplete

DEFAULT = [{"sparsity": 0.5, "op_types": ["default"]}]


def pruned(**options):
    model = randomised(Residual()).eval()
    pruner = L1FilterPruner(model, DEFAULT, **options)
    pruner.compress()
    return model, pruner


def test_an_input_shape_completes_the_masks_before_they_are_written(tmp_path):
    model, pruner = pruned()
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth", input_shape=[1, 3, 6, 6])
    assert not is_incomplete(model)
    assert "inner_norm" in load_masks(tmp_path / "mask.pth")


def test_masks_that_are_still_incomplete_are_exported_with_a_warning(tmp_path):
    _, pruner = pruned()
    with pytest.warns(UserWarning, match="call the model once before, or pass input_shape"):
        pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    assert set(load_masks(tmp_path / "mask.pth")) == set(pruner.targets)


def test_single_weights_are_never_incomplete(tmp_path):
    model = randomised(Residual())
    pruner = LevelPruner(model, DEFAULT)
    pruner.compress()
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")  # a warning would be an error here
    assert load_masks(tmp_path / "mask.pth").keys() == pruner.targets.keys()


@pytest.mark.parametrize("how", ["input_shape", "dummy_input", "device"])
def test_the_onnx_file_computes_what_the_model_computes(how, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, pruner = pruned(**({"dummy_input": batch(1)} if how == "dummy_input" else {}))
    shape = {"dummy_input": {}, "input_shape": {"input_shape": [1, 3, 6, 6]}}.get(
        how, {"input_shape": (1, 3, 6, 6), "device": torch.device("cpu")}
    )
    model.train()
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth", tmp_path / "model.onnx", **shape)
    assert model.training
    assert is_attached(model)
    model.eval()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = batch(1)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(y, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"onnx_path": "model.onnx"}, "without input_shape.*pass input_shape"),
        ({"onnx_path": "model.onnx", "input_shape": 28}, "input_shape is 28"),
        ({"onnx_path": "model.onnx", "input_shape": [1, -1, 28, 28]}, "input_shape is"),
        ({"input_shape": []}, "input_shape is"),
        ({"input_shape": [1, 3.0, 6, 6]}, "input_shape is"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(options, words, tmp_path):
    model, pruner = pruned()
    if "onnx_path" in options:
        options = options | {"onnx_path": tmp_path / options["onnx_path"]}
    with pytest.raises(ExportError, match=words):
        pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth", **options)
    assert not list(tmp_path.iterdir())
    assert is_incomplete(model)


@pytest.mark.parametrize("path", [None, 3, b"model.pth"])
def test_what_is_no_path_is_refused(path):
    _, pruner = pruned(dummy_input=batch())
    with pytest.raises(ExportError, match=f"model_path is a {type(path).__name__}; it is the path of the file"):
        pruner.export_model(path)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    _, pruner = pruned(dummy_input=batch())
    with pytest.raises(FileError, match="nowhere"):
        pruner.export_model(tmp_path / "nowhere" / "model.pth")


def test_exporting_changes_nothing_in_the_model(tmp_path):
    model, pruner = pruned(dummy_input=batch())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruner.export_model(tmp_path / "a.pth", tmp_path / "mask.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.train()(batch()).sum().backward()
    pruner.export_model(tmp_path / "b.pth")
    assert model.training


def test_an_unwrapped_model_exports_its_masks_too(tmp_path):
    _, pruner = pruned(dummy_input=batch())
    masks = pruner.get_masks()
    pruner._unwrap_model()
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    assert load_masks(tmp_path / "mask.pth").keys() == masks.keys()


def test_a_users_own_buffer_that_is_called_like_a_mask_is_no_mask():
    class Windowed(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.register_buffer("scale_mask", torch.tensor([True, False, True]))
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.conv(x * self.scale[:, None, None])

    model = Windowed()
    pruner = L1FilterPruner(model, DEFAULT, dummy_input=torch.ones(1, 3, 2, 2))
    pruner.compress()
    pruner.load_model_state_dict(Windowed().state_dict())
    assert masks_of(model).keys() == {"conv"}


def test_a_state_with_masks_brings_them_along():
    model, pruner = pruned()
    other = randomised(Residual(), 3)
    attach_mask(other.head, "bias", torch.tensor([True, False, True, True, True]))
    pruner.load_model_state_dict(other.state_dict())
    assert not model.head.bias[1]
    assert set(masks_of(model)) == {*pruner.targets, "head"}


def test_a_state_that_does_not_fit_is_refused():
    _, pruner = pruned()
    with pytest.raises(RuntimeError, match="Missing key"):
        pruner.load_model_state_dict({})
