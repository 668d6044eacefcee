"""Time where the model will live: a model is prepared for a runtime, and one run of it is timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchpare.errors import ConfigError
from torchpare.files.onnx import export_onnx, runner
from torchpare.graph.capture import call_arguments
from torchpare.report.measure import measure

__all__ = ["RUNTIMES", "latency", "prepared", "relative_latency"]


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


def latency(run: Callable[[], object], runs: int) -> float:
    """The median time of a run, in seconds.

    Args:
        run: what a runtime made of a model.
        runs: how many runs are timed.
    """
    return measure({"model": run}, runs=runs, warmup=3)["model"].median


def relative_latency(run: Callable[[], object], dense: Callable[[], object], runs: int) -> float:
    """How long a run takes, of a run of the dense model that takes turns with it.

    What else the machine does meanwhile slows both, and falls out of the ratio.

    Args:
        run: what a runtime made of a candidate.
        dense: what it made of the dense model.
        runs: how many runs of each are timed.
    """
    found = measure({"candidate": run, "dense": dense}, runs=runs, warmup=3)
    return found["candidate"].median / found["dense"].median


def prepared(model: nn.Module, example: Any, runtime: Any) -> Callable[[], object]:
    """What runs a model once on a runtime.

    Args:
        model: left in evaluation mode.
        example: what it is run on: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        runtime: a name of `RUNTIMES`, or a function like theirs.

    Raises:
        ExportError, MissingExtraError: the runtime cannot take the model, or is not installed.
        ConfigError: the user's function returned nothing that can be run.
    """
    run = (RUNTIMES[runtime] if isinstance(runtime, str) else runtime)(model, example)
    if not callable(run):
        raise ConfigError(f"objective: the runtime returned a {type(run).__name__}; it returns a function that runs "
                          "the prepared model once")  # fmt: skip
    return run
