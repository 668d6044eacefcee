"""A run of a recipe, as it might have ended."""

from __future__ import annotations

from pathlib import Path

from torchpare.recipe.budget import Budget, read_budget
from torchpare.recipe.result import Result, StageResult


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


def a_run(folder: Path) -> Result:
    """Everything that can be told, good and bad, under names that mean harm."""
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
    return Result("a & <blink>run</blink>", folder, stages, 6, None, {"machine": "here"}, settings)
