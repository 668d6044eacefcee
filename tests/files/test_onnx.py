from __future__ import annotations

import logging
import sys
import warnings

import onnx
import pytest
import torch
from torch import nn

from tests.support.nets import shrunk_net
from torchpare.errors import ExportError, FileError, MissingExtraError
from torchpare.files import onnx as onnx_files
from torchpare.files.onnx import check_onnx, export_onnx


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A shrunk net and its file, exported from a single sample while the net was in training mode."""
    net = shrunk_net(torch.Generator().manual_seed(1)).train()
    net.norm1.eval()
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return net, path, export_onnx(net, path, torch.randn(1, 3, 6, 6))


def test_the_file_computes_what_the_model_does_at_any_batch_size(exported):
    net, path, export = exported
    assert export.dynamic_batch
    for batch in (1, 2, 7):
        assert check_onnx(net, path, torch.randn(batch, 3, 6, 6)) < 1e-4


def test_the_model_keeps_its_modes(exported):
    net, path, _ = exported
    check_onnx(net, path, torch.randn(1, 3, 6, 6))
    assert net.training
    assert net.conv1.training
    assert not net.norm1.training


def test_it_is_one_file_without_the_exporters_debugging(exported):
    _, path, export = exported
    assert export.path == path
    assert list(path.parent.iterdir()) == [path]
    onnx.checker.check_model(path)
    assert b"nets.py" not in path.read_bytes()  # source lines of the model's code


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, a, b=None, times=2):
        return {"product": self.linear(a) * times, "sum": (b + 1,)}


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.randn(2, 3), torch.randn(2, 4)),
        {"b": torch.randn(1, 4), "a": torch.randn(1, 3), "times": 3},
        {"a": torch.randn(1, 3), "b": torch.randn(5)},
    ],
    ids=["positional", "keywords", "one without a batch"],
)
def test_several_inputs_and_outputs(tmp_path, inputs):
    model = TwoInputs()
    assert export_onnx(model, tmp_path / "two.onnx", inputs).dynamic_batch
    assert check_onnx(model, tmp_path / "two.onnx", inputs) < 1e-5


class Starred(nn.Module):
    """Takes any number of inputs, by position, some of them in lists."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, first, *others):
        last = others[-1][0] if isinstance(others[-1], list) else others[-1]
        batch = first.shape[0]
        product = self.linear(first).view(batch, 2, 2) @ self.linear(last).view(batch, 2, 2)
        return product.reshape(batch, 4)


@pytest.mark.parametrize("nested", [False, True])
def test_the_batch_of_starred_arguments_may_vary(tmp_path, nested):
    def inputs(batch):
        last = torch.randn(batch, 3)
        return torch.randn(batch, 3), torch.randn(batch, 3), [last] if nested else last

    model = Starred()
    assert export_onnx(model, tmp_path / "starred.onnx", inputs(1)).dynamic_batch
    for batch in (1, 5):
        assert check_onnx(model, tmp_path / "starred.onnx", inputs(batch)) < 1e-5


def test_weights_that_a_model_returns_are_outputs(tmp_path):
    class Anchors(nn.Linear):
        def forward(self, x):
            return super().forward(x), self.weight, self.weight.sum(0), self.weight

    model, x = Anchors(3, 2), torch.randn(4, 3)
    export_onnx(model, tmp_path / "anchors.onnx", x)
    assert check_onnx(model, tmp_path / "anchors.onnx", x) < 1e-4


class OneDict(nn.Module):
    def forward(self, given):
        return given["a"] - given["b"]


def test_a_dict_that_is_an_argument_is_not_taken_for_keywords(tmp_path):
    given = ({"a": torch.randn(2, 3), "b": torch.randn(2, 3)},)
    assert export_onnx(OneDict(), tmp_path / "dict.onnx", given).dynamic_batch
    assert check_onnx(OneDict(), tmp_path / "dict.onnx", given) < 1e-6


class OneBatchSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x):
        return self.linear(x.view(1, 6))


def test_a_model_with_one_batch_size_is_exported_with_that(tmp_path, capfd):
    model = OneBatchSize()
    x = torch.randn(1, 6)
    assert not export_onnx(model, tmp_path / "one.onnx", x).dynamic_batch
    assert check_onnx(model, tmp_path / "one.onnx", x) < 1e-5
    assert capfd.readouterr() == ("", "")  # not a word of the exporter's failed attempt
    assert all(handler.level < logging.CRITICAL for handler in logging.getLogger("torch").handlers)


def test_weights_of_two_gigabytes_get_a_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "_ONE_FILE", 0)
    model = nn.Linear(64, 64)
    export_onnx(model, tmp_path / "big.onnx", torch.randn(2, 64))
    assert {file.name for file in tmp_path.iterdir()} == {"big.onnx", "big.onnx.data"}
    assert check_onnx(model, tmp_path / "big.onnx", torch.randn(2, 64)) < 1e-5


def test_a_file_of_another_model_is_found_out(exported):
    _, path, _ = exported
    other = shrunk_net(torch.Generator().manual_seed(2))
    with pytest.raises(ExportError, match=r"differs from PyTorch by .* in output 0 .*was it exported from this model"):
        check_onnx(other, path, torch.randn(1, 3, 6, 6))
    with pytest.raises(ExportError, match=r"gives outputs of shapes \[\(1, 5\)\], PyTorch \[\(1, 3, 6, 6\)\]"):
        check_onnx(nn.Identity(), path, torch.randn(1, 3, 6, 6))
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot run .* on this input"):
        check_onnx(nn.Identity(), path, torch.randn(1, 2, 6, 6))


class NotANumber(nn.Module):
    def forward(self, x):
        return x * torch.nan


def test_not_a_number_is_a_difference(tmp_path):
    export_onnx(NotANumber(), tmp_path / "nan.onnx", torch.ones(2, 2))
    with pytest.raises(ExportError, match="differs from PyTorch by nan"):
        check_onnx(NotANumber(), tmp_path / "nan.onnx", torch.ones(2, 2))


def test_a_model_that_does_not_run_is_told_in_its_own_words(tmp_path):
    with pytest.raises(ExportError, match=r"Linear does not run on the dummy input: RuntimeError: mat1 and mat2"):
        export_onnx(nn.Linear(3, 3), tmp_path / "bad.onnx", torch.randn(2, 4))
    assert not list(tmp_path.iterdir())


class Unknown(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x)


def test_an_operator_that_onnx_lacks_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(ExportError, match=r"Unknown could not be exported: .*svd"):
        export_onnx(Unknown(), tmp_path / "bad.onnx", torch.randn(2, 3, 3))
    assert not list(tmp_path.iterdir())


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ExportError, match=r"there is no ONNX file .*none\.onnx"):
        check_onnx(nn.Identity(), tmp_path / "none.onnx", torch.ones(1))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot run .*bad\.onnx"):
        check_onnx(nn.Identity(), tmp_path / "bad.onnx", torch.ones(1))
    with pytest.raises(FileError, match="there is no folder"):
        export_onnx(nn.Linear(2, 2), tmp_path / "nowhere" / "net.onnx", torch.ones(1, 2))


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    use = check_onnx if library == "onnxruntime" else export_onnx
    with pytest.raises(MissingExtraError, match=rf"{library} is not installed; .*pip install 'torchpare\[onnx\]'"):
        use(nn.Linear(2, 2), tmp_path / "net.onnx", torch.ones(1, 2))


class Rotated(nn.Module):
    """A linear layer whose outputs are turned as complex numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, turn):
        y = self.linear(x)
        return torch.complex(y, -y) * turn


def test_complex_inputs_and_outputs_are_compared_as_the_pairs_that_a_file_has(tmp_path):
    torch.manual_seed(0)
    net, inputs = Rotated(), (torch.randn(3, 4), torch.randn(4, dtype=torch.complex64))
    export_onnx(net, tmp_path / "net.onnx", inputs)
    assert check_onnx(net, tmp_path / "net.onnx", inputs) < 1e-6
    net.linear.bias.data += 1
    with pytest.raises(ExportError, match="differs from PyTorch"):
        check_onnx(net, tmp_path / "net.onnx", inputs)
