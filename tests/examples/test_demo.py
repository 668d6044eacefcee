"""The demo, from end to end in a process of its own, on a net so small and so little trained that it takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchpare.report import read_report

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--seeds", "2", "--epochs", "1", "--tune-epochs", "1", "--width", "8", "--runs", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "demo"
    command = [sys.executable, str(ROOT / "examples" / "digits_resnet20.py"), "--out", str(out), *QUICK]
    env = os.environ | {"PYTHONPATH": str(ROOT)}  # as pytest finds it: from the checkout
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout, done.stderr


@pytest.fixture(scope="module")
def report(demo):
    return read_report(demo[0] / "report.json")


@pytest.mark.slow
def test_the_small_net_is_four_times_smaller_and_proved_the_same(report):
    factors = {row.name: row.factor for row in report.rows}
    assert factors["Parameters"] == pytest.approx(4, rel=0.05)
    assert factors["MACs"] == pytest.approx(4, rel=0.05)
    assert factors["File on disk"] > 3
    assert [proof.holds for proof in report.proofs] == [True] * 5
    assert report.proofs[0].tolerance == 1e-10
    assert {layer.after / layer.before for layer in report.layers} == {0.5}
    assert len(report.layers) == 21


@pytest.mark.slow
def test_every_latency_is_measured_dense_and_small_for_both_runtimes(report):
    runtimes = ("PyTorch", "ONNX Runtime", "ONNX int8")
    assert list(report.measurements) == [f"{name}, batch {n}" for name in runtimes for n in (1, 32)]
    for name, found in report.measurements.items():
        for measurement in found.values():
            assert measurement.runtime.startswith(name.split(",")[0].removesuffix(" int8"))
            assert 0 < measurement.lower_quartile <= measurement.median <= measurement.upper_quartile
            assert (measurement.runs, measurement.threads) == (3, 1)


@pytest.mark.slow
def test_the_table_and_the_page_say_what_the_json_says(demo, report):
    out, printed, _ = demo
    page = (out / "report.html").read_text(encoding="utf-8")
    for row in report.rows:
        for words in (row.name, row.say(row.dense), row.say(row.small), " ".join(row.change)):
            assert words in printed
            assert words in page


@pytest.mark.slow
def test_the_net_in_eight_bits_is_a_smaller_file_that_onnx_runtime_reads_as_pytorch_does(demo, report):
    rows = {row.name: row for row in report.rows}
    assert rows["File on disk, int8"].factor > rows["File on disk"].factor
    assert report.proofs[-1].statement.startswith("int8")
    assert report.proofs[-1].difference <= 0.001
    assert 0 <= rows["Accuracy, int8 trained"].small.value <= 1
    assert (demo[0] / "seed0" / "int8.onnx").is_file()


@pytest.mark.slow
def test_nothing_is_complained_about_on_the_way(demo):
    assert demo[2] == ""


@pytest.mark.slow
def test_all_files_that_were_announced_are_there(demo):
    for seed in ("seed0", "seed1"):
        names = {path.name for path in (demo[0] / seed).iterdir()}
        assert names >= {"model.pth", "mask.pth", "dense.safetensors", "small.safetensors", "small.onnx"}
