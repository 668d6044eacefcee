"""Pages to open in a browser: a run, a benchmark, a model, hostile names, three hundred layers, next to nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch

from tests.search.nets import Chain, example, likelihood, trained
from tests.support.reports import example_report
from tests.support.runs import BENCH, SHRINK, a_run, stage
from torchpare.insight import (
    ActivationRange,
    Activations,
    Channels,
    Costs,
    Frontier,
    Insight,
    LayerCost,
    LayerRounding,
    Rounding,
    Sensitivity,
    study,
)
from torchpare.recipe.page import page_of
from torchpare.recipe.result import Result
from torchpare.report import CodeBlock, Measurement, Page, Section, TextBlock, Verdict, render_html, render_page
from torchpare.runtimes.bench import Benchmark, Row, Slower
from torchpare.runtimes.bench_page import page_of_benchmark

__all__ = ["PAGES"]

HOSTILE = ("<script>document.title='owned'</script>", "<img src=x onerror=alert(1)>", "\x00\x1b[31m\ud800", "層" * 60,
           "a" * 400, "\u202egnp.exe", "</svg></style><h1>", "{{ 7 * 7 }}", "'\"--", "")  # fmt: skip


def ordinary() -> str:
    """A small net with all analyses."""
    points = [("dense", 0.004, 0.95), ("pruned", 0.002, 0.948), ("int8", 0.003, 0.94), ("both", 0.0015, 0.93)]
    found = study(trained(Chain), example(), [example()], likelihood, points=points, runs=3, warmup=0, name="Chain")
    page = found.page()
    told = (TextBlock("It is so.", "good"), TextBlock("Beware.", "bad"), TextBlock("Aside.", "soft"), CodeBlock("a: 1"))
    verdict, more = Verdict("As asked for", "good", "It is."), Section("Told", blocks=told)
    return render_page(replace(page, verdict=verdict, sections=(*page.sections, more)))


def made_up(names: list[str]) -> Insight:
    """An insight of layers with these names, with values of all sizes."""
    draw = random.Random(0)
    taken = Measurement(0.01, 0.009, 0.011, 20, 2, "PyTorch", "a machine")
    costs = [
        LayerCost(name, "Conv2d", 1, draw.randrange(10**8), draw.randrange(10**6), draw.random() / 100, 0.001, 0.01)
        for name in names
    ]
    ranges = [
        ActivationRange(name, "Conv2d", 100, -draw.random() * 10, draw.random() * 1000, draw.gauss(0, 1), 1.0, -0.1,
                        90.0, draw.random(), 1 + 10 * draw.random(), draw.choice([0, 0, 7]))
        for name in names
    ]  # fmt: skip
    channels = [Channels(name, "Conv2d", 64, tuple(range(draw.randrange(64))), (), (63,)) for name in names]
    rows = [
        LayerRounding(name, "Conv2d", *({8: 40 * draw.random(), 4: draw.choice([float("nan"), float("inf"), 9.0])}
                                        for _ in range(4)))
        for name in names
    ]  # fmt: skip
    heat = {name: {share / 10: draw.random() for share in range(1, 10)} for name in names}
    front = Frontier.of([(name, 0.001 * (at + 1), draw.random()) for at, name in enumerate(names)])
    return Insight(
        names[0], "Net", Costs(tuple(costs), taken, taken, 2),
        Activations(tuple(ranges), tuple(channels), 3, own_data=True), Rounding(tuple(rows), (8, 4), 3, own_data=True),
        None, Sensitivity(heat, 1.0, "l1"), front, {"coupling": names[0]}, {names[0]: names[-1]},
    )  # fmt: skip


def hostile() -> str:
    """Names that mean harm."""
    return render_page(made_up([*HOSTILE[:-1], "ordinary"]).page())


def deep() -> str:
    """Three hundred layers of long names."""
    names = [f"model.language_model.layers.{at // 6}.self_attention.block.{part}_projection"
             for at in range(0, 300, 6) for part in ("query", "key", "value", "output", "gate", "up")]  # fmt: skip
    return render_page(made_up(names).page())


def bare() -> str:
    """A page of nothing."""
    verdict = Verdict("Not reached", "bad", "It is not.")
    return render_page(Page("Nothing", "", verdict, (Section("Empty"), Section("Said", "so"))))


def demo() -> str:
    """The report of dense against small."""
    torch.manual_seed(0)
    return render_html(example_report())


def run() -> str:
    """What came of a recipe."""
    return render_page(page_of(a_run(Path("runs"))))


def stopped() -> str:
    """A recipe whose training is long, whose model gets much better, and which is stopped by a budget."""
    history = [{"loss": 1.0, "metrics": {"accuracy": 0.4 + 0.02 * epoch}} for epoch in range(25)]
    stages = (
        stage(0, "dense", "dense", {"accuracy": 0.051, "parameters": 1e6, "macs": 5e8, "size": 4e6}),
        stage(1, "prune", "prune", {"accuracy": 0.4, "parameters": 5e5, "macs": 2e8}),
        stage(2, "finetune", "finetune", {"accuracy": 0.88, "parameters": 5e5, "macs": 2e8}, {"history": history},
              ["accuracy >= dense - 0.05"]),
        stage(3, "shrink", "shrink", {"accuracy": 0.88, "parameters": 5e5, "macs": 2e8, "size": 2e6},
              {"shrink": SHRINK, "says": ["1,000,000 -> 500,000 parameters"]}),
        stage(4, "quantize with a long name of its own", "quantize", {"accuracy": 0.88}),
        stage(5, "benchmark", "benchmark", {"accuracy": 0.88, "parameters": 5e5, "macs": 2e8, "size": 9e5,
              "latency": 2e-2, "speedup": 0.5}, {"benchmark": BENCH}, ["latency <= 5 ms"],
              "compressed is 0.50 times as fast as dense"),
    )  # fmt: skip
    return render_page(page_of(Result("digits", Path(), stages, 6, None, {"machine": "here"}, {"stages": []})))


def bench() -> str:
    """Dense against compressed."""
    taken = Measurement(2e-3, 1.9e-3, 2.2e-3, 30, 1, "ONNX Runtime", "a machine")
    rows = tuple(Row("ONNX Runtime", batch, name, taken, 4000, factor, 40.0, 9000)
                 for batch in (1, 8) for name, factor in (("dense", 1.0), ("small", 2.0), ("int8", 0.5)))  # fmt: skip
    slower = tuple(Slower(row, ("conv1: 3 channels, no multiple of 8",)) for row in rows if row.speedup < 1)
    return render_page(page_of_benchmark(Benchmark(rows, slower)))


PAGES = {"run": run, "stopped": stopped, "bench": bench, "ordinary": ordinary, "hostile": hostile, "deep": deep,
         "bare": bare, "demo": demo}  # fmt: skip
