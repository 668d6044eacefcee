"""OpenVINO compiles a program for the sizes of the example, and one more for others when they come."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from tests.support.vision import randomise, torchvision_models
from torchpare.errors import ExportError
from torchpare.files.onnx import export_onnx
from torchpare.runtimes import ModelSpeedupOpenVINO
from torchpare.runtimes.openvino import openvino_runner
from torchpare.runtimes.verify import snr

openvino = pytest.importorskip("openvino")


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


def test_every_size_has_a_program_of_its_own(compiled):
    batches = list(torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(small(), dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    outputs = made.inference(batches[0])[0]
    assert compiled == [["[2,3,8,8]"]]
    more = torch.cat([*batches[1:], batches[0]])
    assert made.inference(more)[0].shape == (6, 5)
    alone = made.inference(batches[1][:1])[0]
    assert compiled[1:] == [["[6,3,8,8]"], ["[1,3,8,8]"]]
    torch.testing.assert_close(made.inference(more)[0][4:], outputs)
    torch.testing.assert_close(made.inference(more)[0][:1], alone)
    torch.testing.assert_close(made.inference(batches[0])[0], outputs, rtol=0, atol=0)
    assert len(compiled) == 3


def test_some_of_them_are_kept_and_the_example_always(compiled, tmp_path):
    path = tmp_path / "small.onnx"
    export_onnx(small(), path, torch.randn(2, 3, 8, 8))
    run = openvino_runner(path, example=[torch.randn(2, 3, 8, 8)])
    for size in (1, 3, 4, 5, 2, 5, 4, 1):
        assert run([torch.randn(size, 3, 8, 8)])[0].shape == (size, 5)
    assert [shapes[0][1] for shapes in compiled] == ["2", "1", "3", "4", "5", "1"]


def test_a_network_that_openvino_gets_wrong_for_open_sizes_is_right_for_every_batch():
    torchvision_models()
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    model = ConvNeXt([CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)], num_classes=10)
    randomise(model, torch.Generator().manual_seed(0))
    batches = list(torch.randn(3, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(model.eval(), dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    assert snr(made.made()(batches[0]), made.inference(batches[0])[0]) > 35  # 17 of a program for open sizes
    together = torch.cat(batches)
    assert snr(made.made()(together), made.inference(together)[0]) > 35


def test_a_file_of_other_sizes_than_the_example_is_compiled_as_it_is(compiled, tmp_path):
    path = tmp_path / "small.onnx"
    export_onnx(small(), path, torch.randn(2, 3, 8, 8))
    fits = openvino_runner(path, example=[torch.randn(2, 3, 8, 8)])
    for other in (torch.randn(2, 3, 9, 9), torch.randn(2, 3, 8)):
        with pytest.raises(Exception, match=r"\?,3,8,8|shape|rank"):
            openvino_runner(path, example=[other])([other])
        with pytest.raises(ExportError, match=r"the program takes inputs of shapes \[\?,3,8,8\]"):
            fits([other])
    run = openvino_runner(path, example=[torch.randn(2, 3, 8, 8)] * 2)
    with pytest.raises(ExportError, match="the program has 1 inputs, and 2 were given"):
        run([torch.randn(2, 3, 8, 8)] * 2)
    assert compiled == [["[2,3,8,8]"], *([["[?,3,8,8]"]] * 3)]


def test_inputs_may_lie_in_memory_as_they_like(tmp_path):
    path, x = tmp_path / "small.onnx", torch.randn(2, 8, 8, 3).permute(0, 3, 1, 2)
    model = small()
    export_onnx(model, path, torch.randn(2, 3, 8, 8))
    run = openvino_runner(path, example=[x])
    first, second = run([x])[0], run([x + 1])[0]
    with torch.no_grad():
        torch.testing.assert_close(first, model(x), rtol=1e-4, atol=1e-5)  # and is no view of what came after
        torch.testing.assert_close(second, model(x + 1), rtol=1e-4, atol=1e-5)


def test_calls_from_several_threads_keep_apart(tmp_path):
    path, model = tmp_path / "small.onnx", small()
    inputs = [torch.randn(2 + at % 2, 3, 8, 8) for at in range(4)]
    export_onnx(model, path, inputs[0])
    run = openvino_runner(path, threads=1, example=inputs[:1])
    wanted = [run([x])[0] for x in inputs]

    def differ(at: int) -> int:
        return sum(not torch.equal(run([inputs[at]])[0], wanted[at]) for _ in range(50))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(differ, range(4))) == [0] * 4
    finally:
        sys.setswitchinterval(before)


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
