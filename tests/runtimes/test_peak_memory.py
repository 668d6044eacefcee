"""Peak memory is of the program alone, and grows with it; a benchmark tells it in its table and on its page."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from torchpare.cli import app
from torchpare.errors import ExportError
from torchpare.report.page import render_page
from torchpare.runtimes.bench import benchmark
from torchpare.runtimes.bench_page import page_of_benchmark
from torchpare.runtimes.peak_memory import peak_memory


def wide(width: int = 2048) -> nn.Sequential:
    return nn.Sequential(nn.Linear(256, width), nn.ReLU(), nn.Linear(width, 256))


def huge() -> nn.Sequential:
    return wide(65536)  # 134 MB of weights


def half() -> nn.Sequential:
    return wide(32768)


@pytest.mark.slow
def test_memory_grows_with_the_weights(tmp_path):
    found = benchmark(huge(), half(), torch.randn(1, 256), runs=2, memory=True, threads=1)
    dense, small = (row.peak_bytes for row in found.rows)
    assert dense > 4 * 2 * 256 * 65536
    assert small > 4 * 2 * 256 * 32768
    assert 1.5 < dense / small < 2.6
    assert [row["peak_bytes"] for row in found.to_dict()["rows"]] == [dense, small]
    page = render_page(page_of_benchmark(found))
    assert "peak memory" in page
    assert page.count("<svg") == 1


def test_a_program_that_does_not_run_there_is_told(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="does not run in a process of its own"):
        peak_memory("onnxruntime", tmp_path / "broken.onnx", [torch.zeros(1)], 1)


@pytest.mark.parametrize("runtime", ["openvino", "executorch", "inductor"])
@pytest.mark.slow
def test_every_runtime_is_measured(runtime, tmp_path):
    from torchpare.runtimes import RUNTIMES

    made = RUNTIMES[runtime](wide(), dummy_input=torch.randn(1, 256), threads=1)
    made.compress()
    made.export_quantized_model(tmp_path / "file")
    found = peak_memory(runtime, tmp_path / "file", made.tensors(torch.randn(1, 256)), 1)
    assert found is not None
    assert 0 < found < 2**30


def test_without_being_asked_nothing_is_measured():
    found = benchmark(wide(), wide(64), torch.randn(1, 256), runs=2)
    assert all(row.peak_bytes is None for row in found.rows)


def test_the_command_writes_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide_of_a_test.py").write_text(
        "from torch import nn\ndef dense(): return nn.Linear(512, 512)\ndef small(): return nn.Linear(512, 8)\n",
        encoding="utf-8",
    )
    models = ["wide_of_a_test:dense", "wide_of_a_test:small"]
    words = ["bench", *models, "--input", "1x512", "--no-memory", "--html", "b.html"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code in (0, 1), result.output
    assert "Dense against compressed" in (tmp_path / "b.html").read_text(encoding="utf-8")
