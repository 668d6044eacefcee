"""The page of a run says what the run says, whatever happened in it."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from tests.support.runs import a_run, stage
from torchpare.recipe.page import page_of, write_report
from torchpare.report.page import render_page


@pytest.fixture
def result(tmp_path):
    return a_run(tmp_path)


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
