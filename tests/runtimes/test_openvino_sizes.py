"""OpenVINO compiles a program for the sizes of the example, and once more when others come."""

from __future__ import annotations

import openvino
import pytest
import torch
from torch import Tensor, nn

from torchpare.errors import ExportError
from torchpare.files.onnx import export_onnx
from torchpare.runtimes import ModelSpeedupOpenVINO
from torchpare.runtimes.openvino import openvino_runner


@pytest.fixture
def compiled(monkeypatch):
    """The input's shapes of each compilation."""
    seen: list[list[str]] = []

    class Watched(openvino.Core):
        def compile_model(self, model, *rest):
            seen.append([str(each.partial_shape) for each in model.inputs])
            return super().compile_model(model, *rest)

    monkeypatch.setattr(openvino, "Core", Watched)
    return seen


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


def test_the_example_has_a_program_of_its_own_and_all_other_sizes_share_one(compiled):
    batches = list(torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(small(), dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    outputs = made.inference(batches[0])[0]
    assert compiled == [["[2,3,8,8]"]]
    more = torch.cat([*batches[1:], batches[0]])
    assert made.inference(more)[0].shape == (6, 5)
    alone = made.inference(batches[1][:1])[0]
    assert compiled[1:] == [["[?,3,8,8]"]]
    torch.testing.assert_close(made.inference(more)[0][4:], outputs)
    torch.testing.assert_close(made.inference(more)[0][:1], alone)
    torch.testing.assert_close(made.inference(batches[0])[0], outputs, rtol=0, atol=0)


def test_a_file_of_other_sizes_than_the_example_is_compiled_as_it_is(compiled, tmp_path):
    path = tmp_path / "small.onnx"
    export_onnx(small(), path, torch.randn(2, 3, 8, 8))
    for example in (torch.randn(2, 3, 9, 9), torch.randn(2, 3, 8)):
        with pytest.raises(Exception, match=r"\?,3,8,8|shape|rank"):
            openvino_runner(path, example=[example])([example])
    run = openvino_runner(path, example=[torch.randn(2, 3, 8, 8)] * 2)
    with pytest.raises(ExportError, match="the program has 1 inputs, and 2 were given"):
        run([torch.randn(2, 3, 8, 8)] * 2)
    assert compiled == [["[?,3,8,8]"]] * 3


def test_inputs_may_lie_in_memory_as_they_like(tmp_path):
    path, x = tmp_path / "small.onnx", torch.randn(2, 8, 8, 3).permute(0, 3, 1, 2)
    model = small()
    export_onnx(model, path, torch.randn(2, 3, 8, 8))
    run = openvino_runner(path, example=[x])
    first, second = run([x])[0], run([x + 1])[0]
    with torch.no_grad():
        torch.testing.assert_close(first, model(x), rtol=1e-4, atol=1e-5)  # and is no view of what came after
        torch.testing.assert_close(second, model(x + 1), rtol=1e-4, atol=1e-5)


class Counts(nn.Module):
    """Integers, a flag and a number without axes."""

    def forward(self, x: Tensor, mask: Tensor, number: Tensor) -> Tensor:
        return torch.where(mask, x, 0) + number


def test_inputs_of_every_kind(tmp_path):
    given = [torch.arange(6).view(2, 3), torch.tensor([[True, False, True]]).expand(2, 3), torch.tensor(4)]
    export_onnx(Counts(), tmp_path / "counts.onnx", tuple(given))
    for example in (None, given):
        run = openvino_runner(tmp_path / "counts.onnx", example=example)
        torch.testing.assert_close(run(given)[0], Counts()(*given))
