"""The page of a run says what the run says, whatever happened in it."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from torchpare.recipe.budget import Budget, read_budget
from torchpare.recipe.page import page_of, write_report
from torchpare.recipe.result import Result, StageResult
from torchpare.report.page import render_page


def stage(number, name, kind, metrics, details=None, budgets=(), failure=""):
    dense = {"accuracy": 0.9, "parameters": 1000.0, "latency": 2e-3, "size": 4000.0}
    verdicts = tuple(Budget.model_validate(read_budget(text)).judge(metrics, dense) for text in budgets)
    return StageResult(number, name, kind, 1.5, metrics, dense, details or {}, failure, verdicts, "f")


def row(name, batch, seconds, speedup):
    return {"runtime": "ONNX Runtime", "batch": batch, "name": name, "speedup": speedup, "file_bytes": 4000,
            "peak_bytes": 9000,
            "output_snr": None if name == "dense" else 40.0, "seconds_median": seconds,
            "seconds_lower_quartile": seconds * 0.9, "seconds_upper_quartile": seconds * 1.1, "seconds_runs": 30,
            "seconds_threads": 1}  # fmt: skip


SHRINK = {
    "largest_difference": 1e-16, "tolerance": 1e-10, "dtype": "float64",
    "layers": [{"name": f"layer{n}<blink>", "channels_before": 64, "channels_after": 32} for n in range(40)],
}  # fmt: skip
BENCH = {"ok": False, "rows": [row("dense", 1, 2e-3, 1.0), row("compressed", 1, 1e-3, 2.0), row("dense", 8, 1e-2, 1.0),
                               row("compressed", 8, 2e-2, 0.5)],
         "slower": [{"runtime": "ONNX Runtime", "batch": 8, "name": "compressed",
                     "reasons": ["conv1: 3 channels"]}]}  # fmt: skip


@pytest.fixture
def result(tmp_path):
    stages = (
        stage(0, "dense", "dense", {"accuracy": 0.9, "parameters": 1000.0, "macs": 5e5, "size": 4000.0}),
        stage(1, "prune", "prune", {"accuracy": 0.4, "parameters": 500.0, "macs": 2e5}),
        stage(2, "finetune", "finetune", {"accuracy": 0.88, "parameters": 500.0, "macs": 2e5},
              {"history": [{"loss": 1.0, "metrics": {"accuracy": 0.7}}, {"loss": 0.5, "metrics": {"accuracy": 0.88}}]},
              ["accuracy >= dense - 0.05"]),
        stage(3, "shrink", "shrink", {"accuracy": 0.88, "parameters": 500.0, "macs": 2e5, "size": 2000.0},
              {"shrink": SHRINK, "says": ["1,000 -> 500 parameters"]}),
        stage(4, "export", "export", {"accuracy": 0.88, "size": 900.0},
              {"files": [{"format": "onnx", "file": "a.onnx", "bytes": 900, "snr": 40.0, "first_offending": "conv2"},
                         {"format": "onnx", "file": "b.onnx", "bytes": 900, "difference": 1e-7}]}),
        stage(5, "benchmark", "benchmark", {"accuracy": 0.87, "latency": 2e-2, "speedup": 0.5, "size": 900.0},
              {"benchmark": BENCH, "metrics": {"onnxruntime": {"accuracy": 0.87}, "openvino": {"error": "no <such>"}}},
              ["latency <= 5 ms"], "compressed is 0.50 times as fast as dense"),
    )  # fmt: skip
    settings = {"name": "x", "stages": ["shrink"]}
    return Result("a & <blink>run</blink>", tmp_path, stages, 6, None, {"machine": "here"}, settings)


def test_everything_is_on_the_page_and_escaped(result):
    page = render_page(page_of(result))
    text = re.sub(r"<[^>]+>", " ", page)
    assert "<blink>" not in page
    for said in (
        "Accuracy",
        "finetune",
        "latency &lt;= 5 ms: missed",
        "conv2 differs",
        "no &lt;such&gt;",
        "Not faster than dense in ONNX Runtime at batch 8.",
        "conv1: 3 channels",
        "1 of 6 stages did not run",
    ):
        assert said in page or said in text, said
    assert page.count("<svg") >= 4
    assert page_of(result).verdict.tone == "bad"


def test_a_run_that_has_only_begun_has_a_page(result):
    begun = dataclasses.replace(result, stages=result.stages[:1])
    assert "0 of 6 stages are done" in render_page(page_of(begun)).replace("\n", " ")


def test_what_grew_is_not_called_smaller(result):
    """And points are points, however many."""
    dense = stage(0, "dense", "dense", {"accuracy": 0.1, "parameters": 500.0, "size": 900.0})
    last = stage(1, "finetune", "finetune", {"accuracy": 0.929, "parameters": 1000.0, "size": 4000.0})
    told = {each.what: each for each in page_of(dataclasses.replace(result, stages=(dense, last))).headlines}
    assert (told["Parameters"].figure, told["Parameters"].unit, told["Parameters"].tone) == (
        "2.0\N{MULTIPLICATION SIGN}",
        "more",
        "bad",
    )
    assert (told["File"].figure, told["File"].unit) == ("4.4\N{MULTIPLICATION SIGN}", "larger")
    assert (told["Accuracy"].figure, told["Accuracy"].unit) == ("+82.90", "points")


def test_figures_that_are_not_finite_are_told(result):
    broken = stage(1, "prune", "prune", {"accuracy": math.nan, "parameters": 0.0}, budgets=["accuracy >= 0.5"])
    page = render_page(page_of(dataclasses.replace(result, stages=(result.stages[0], broken))))
    assert "nan" in page


def test_a_run_without_a_metric_has_a_page(result):
    def bare(each):
        return dataclasses.replace(each, metrics={k: v for k, v in each.metrics.items() if k != "accuracy"}, details={})

    stages = tuple(map(bare, result.stages))
    assert "<svg" in render_page(page_of(dataclasses.replace(result, stages=stages)))


def test_the_page_is_written_whole(result, tmp_path: Path):
    write_report(result, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").endswith("</html>")
