"""Time where the model will live: a model is prepared for a runtime, and one run of it is timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchpare.files.onnx import export_onnx, runner
from torchpare.graph.capture import call_arguments
from torchpare.report.measure import measure

__all__ = ["RUNTIMES", "latency"]


def _pytorch(model: nn.Module, example: Any) -> Callable[[], object]:
    model.eval()
    args, kwargs = call_arguments(example)

    def run() -> object:
        with torch.inference_mode():
            made = model(*args, **kwargs)
        if any(parameter.is_cuda for parameter in model.parameters()):
            torch.cuda.synchronize()
        return made

    return run


def _onnxruntime(model: nn.Module, example: Any) -> Callable[[], object]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.onnx"
        export_onnx(model, path, example)
        return runner(path, example, threads=torch.get_num_threads())


RUNTIMES: dict[str, Callable[[nn.Module, Any], Callable[[], object]]] = {
    "pytorch": _pytorch,
    "onnxruntime": _onnxruntime,
}
"""By name, what prepares a model and an example for a runtime and returns what runs it once."""


def latency(model: nn.Module, example: Any, runtime: Any, runs: int) -> float:
    """The median time of one run, in seconds.

    Args:
        model: left in evaluation mode.
        example: what it is run on: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        runtime: a name of `RUNTIMES`, or a function like theirs.
        runs: how many runs are timed.

    Raises:
        ExportError, MissingExtraError: the runtime cannot take the model, or is not installed.
    """
    prepare = RUNTIMES[runtime] if isinstance(runtime, str) else runtime
    return measure({"candidate": prepare(model, example)}, runs=runs, warmup=3)["candidate"].median
