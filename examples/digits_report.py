"""The numbers of the demo: every one is measured or counted here, on the nets that were just trained."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from digits import Digits, scores
from digits_int8 import Int8
from torch import Tensor, nn

from torchpare.files.onnx import export_onnx
from torchpare.report import (
    Amount,
    Curve,
    Layer,
    Measurement,
    Proof,
    Report,
    Row,
    count_flops_params,
    describe_machine,
    latency_row,
    measure,
    numbers,
    shares_row,
)
from torchpare.speedup import SpeedupReport

__all__ = ["PROVED_ON", "Plan", "Run", "make_report"]

BATCHES = (1, 32)
PROVED_ON = 8  # pictures: the example input of the shrink
FLOAT32 = 1e-5  # of the largest output: what two correct programs may differ by in float32


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    seeds: int
    epochs: int
    tune_epochs: int
    width: int
    sparsity: float
    runs: int
    threads: int


@dataclass(frozen=True)
class Run:
    """What one seed gave. Differences are relative to the largest output, but for the reloaded model's."""

    folder: Path
    dense: nn.Module
    small: nn.Module
    curve: Curve
    shrink: SpeedupReport
    test_difference: float
    """Small model against masked one, on the test pictures in float32."""
    reload_difference: float
    """The model in the other process against the small one: the largest of any score."""
    onnx_difference: float
    """ONNX Runtime against PyTorch."""
    int8: Int8
    """The small model in eight bits."""


def make_report(runs: list[Run], data: Digits, plan: Plan, started: float, say: Callable[[str], None]) -> Report:
    """Count, measure, and say it all.

    Args:
        runs: one per seed; sizes and latencies are those of the first, whose shapes all share.
        data: what was learnt.
        plan: what was asked for.
        started: when, by ``time.perf_counter``.
        say: told of each latency.
    """
    first, picture = runs[0], data.test_pictures[:1]
    macs = [count_flops_params(model, picture, verbose=False)[0] for model in (first.dense, first.small)]
    parameters = (first.shrink.parameters_before, first.shrink.parameters_after)
    files = [(first.folder / f"{name}.safetensors").stat().st_size for name in ("dense", "small")]
    measurements = _latencies(first, data.test_pictures, plan, say)
    tested = f"mean of {plan.seeds} seed{'s' if plan.seeds > 1 else ''}, {len(data.test_digits)} test digits"
    rows = (
        shares_row("Test accuracy", [run.curve.dense[-1] for run in runs], [run.curve.small for run in runs],
                   tested if plan.seeds == 1 else tested + ", ± standard deviation"),
        Row("Parameters", "count", Amount(parameters[0]), Amount(parameters[1]), "of all layers", "fewer", "more"),
        Row("MACs", "count", Amount(macs[0]), Amount(macs[1]), "multiply-accumulates per digit", "fewer", "more"),
        shares_row("Accuracy, int8", [run.curve.dense[-1] for run in runs],
                   [run.int8.calibrated for run in runs], "calibrated on 256 pictures, read in ONNX Runtime"),
        shares_row("Accuracy, int8 trained", [run.curve.dense[-1] for run in runs],
                   [run.int8.trained for run in runs], "an epoch of quantization-aware training, in ONNX Runtime"),
        Row("File on disk", "bytes", Amount(files[0]), Amount(files[1]), "both by torchpare.save"),
        Row("File on disk, int8", "bytes", Amount((first.folder / "dense.onnx").stat().st_size),
            Amount(first.int8.file.stat().st_size), "both as ONNX"),
        *(latency_row(name, found["dense"], found["small"]) for name, found in measurements.items()),
    )  # fmt: skip
    return Report(
        title="ResNet-20 on scanned digits",
        summary=f"{plan.sparsity:.0%} of the filters were pruned by their L1 norm, the rest was fine-tuned, and the "
        f"pruned ones were cut out. {len(data.train_digits) + len(data.test_digits):,} scans of handwritten digits.",
        rows=rows,
        proofs=_proofs(runs, len(data.test_digits)),
        layers=tuple(
            Layer(layer.name, layer.channels_before, layer.channels_after)
            for layer in first.shrink.layers
            if layer.channels_after < layer.channels_before
        ),
        curves=tuple(run.curve for run in runs),
        headlines=("Parameters", "PyTorch, batch 32", "ONNX Runtime, batch 32", "Test accuracy"),
        measurements=measurements,
        settings={
            "Pruner": f"L1FilterPruner, sparsity {plan.sparsity:g}, dependency-aware",
            "Width of the net": f"{plan.width}, {2 * plan.width} and {4 * plan.width} channels",
            "Epochs": f"{plan.epochs}, and {plan.tune_epochs} of fine-tuning",
            "Seeds": ", ".join(str(seed) for seed in range(plan.seeds)),
            "Split": f"{len(data.train_digits):,} digits to learn, {len(data.test_digits)} to test",
            "Whole run": numbers.duration(time.perf_counter() - started),
        },
        environment={
            "Machine": describe_machine(),
            "Threads": str(plan.threads),
            "PyTorch": torch.__version__,
            "ONNX Runtime": onnxruntime.__version__,
            "Python": platform.python_version(),
        },
    )


def _proofs(runs: list[Run], tested: int) -> tuple[Proof, ...]:
    """What should be the same, each time in the worst seed."""

    def worst(differences: list[float]) -> float:
        return max(differences, key=lambda difference: (math.isnan(difference), difference))

    allowed = runs[0].shrink.tolerance
    changed = sorted({str(change) for run in runs for change in run.shrink.changes})
    scale = f"{PROVED_ON} test digits, relative to the largest score"
    note = "; ".join([scale, *(f"changed by nature: {change}" for change in changed)])
    everything = f"all {tested} test digits"
    return (
        Proof("small to masked, float64", worst([run.shrink.largest_difference for run in runs]), allowed, note),
        Proof(
            "small to masked, test set",
            worst([run.test_difference for run in runs]),
            FLOAT32,
            f"{everything}, in float32",
        ),
        Proof(
            "reloaded in a new process",
            worst([run.reload_difference for run in runs]),
            0.0,
            f"{everything}, to the last bit",
        ),
        Proof("ONNX Runtime to PyTorch", worst([run.onnx_difference for run in runs]), FLOAT32, everything),
        Proof(
            "int8, off by two steps",
            worst([run.int8.off for run in runs]),
            0.001,
            "the largest share of a layer's integers: ONNX Runtime against fake quantization in PyTorch",
        ),
    )


def _latencies(run: Run, pictures: Tensor, plan: Plan, say: Callable[[str], None]) -> dict[str, dict[str, Measurement]]:
    """Dense and small taking turns, in PyTorch and in ONNX Runtime, for each batch."""
    export_onnx(run.dense, run.folder / "dense.onnx", pictures[:1])
    models = {"dense": run.dense, "small": run.small}
    version = f"ONNX Runtime {onnxruntime.__version__}"
    found = {}
    for batch in BATCHES:
        calls = {name: partial(scores, model, pictures[:batch]) for name, model in models.items()}
        found[f"PyTorch, batch {batch}"] = measure(calls, runs=plan.runs, threads=plan.threads)
        say(f"in PyTorch, batch {batch}")
    for batch in BATCHES:
        calls = {name: _session(run.folder / f"{name}.onnx", plan.threads, pictures[:batch]) for name in models}
        found[f"ONNX Runtime, batch {batch}"] = measure(calls, runs=plan.runs, threads=plan.threads, runtime=version)
        say(f"in ONNX Runtime, batch {batch}")
    for batch in BATCHES:
        files = {"dense": run.folder / "dense.onnx", "small": run.int8.file}
        calls = {name: _session(path, plan.threads, pictures[:batch]) for name, path in files.items()}
        name = f"ONNX int8, batch {batch}"
        found[name] = measure(calls, runs=plan.runs, threads=plan.threads, runtime=version)
        say(f"int8 in ONNX Runtime, batch {batch}")
    return found


def _session(path: Path, threads: int, pictures: Tensor) -> Callable[[], object]:
    """A call that runs the pictures through an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Idle threads of one session would otherwise keep the cores busy while the other one runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: pictures.numpy()})
