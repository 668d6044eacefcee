"""The stage ``benchmark``: the model beside the dense one where they will live, in time and in what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.attach import detach, is_attached, quantizers_of
from torchpare.errors import TorchpareError
from torchpare.recipe.batches import on
from torchpare.recipe.job import Job, Outcome, on_cpu
from torchpare.recipe.settings import BenchmarkStage
from torchpare.recipe.stages.export import runtime_of
from torchpare.runtimes.bench import benchmark

__all__ = ["run"]

NAME = "compressed"


def run(settings: BenchmarkStage, job: Job) -> Outcome:
    """Time both models in every runtime at every batch size; budgets hold for the slowest of them.

    Raises:
        ExportError: a model cannot be one program, or a runtime refuses it.
        MissingExtraError: a runtime is not installed.
    """
    dense, model = job.materials.build().cpu().eval(), on_cpu(job.model)
    quantized = next(quantizers_of(model), None) is not None
    if is_attached(model) and not quantized:
        detach(model, bake=True)
    job.progress(f"timing in {', '.join(settings.runtimes)}", 0.1)
    found = benchmark(
        dense, {NAME: model}, job.materials.example, runtimes=settings.runtimes, batch_sizes=settings.batch_sizes,
        calibration=job.calibration(16) if quantized else None, runs=settings.runs, threads=job.materials.threads,
        memory=settings.memory,
    )  # fmt: skip
    details: dict[str, Any] = {"benchmark": found.to_dict()}
    ours = [row for row in found.rows if row.name == NAME]
    metrics = {
        "latency": max(row.taken.median for row in ours),
        "speedup": min(row.speedup for row in ours),
        "size": float(max(row.file_bytes for row in ours)),
    }
    theirs = [row for row in found.rows if row.name != NAME]
    of_dense = {"latency": max(row.taken.median for row in theirs), "size": float(max(r.file_bytes for r in theirs)),
                "speedup": 1.0}  # fmt: skip
    for figures, rows in ((metrics, ours), (of_dense, theirs)):
        peaks = [row.peak_bytes for row in rows if row.peak_bytes is not None]
        if peaks:
            figures["memory"] = float(max(peaks))
    if settings.evaluate and job.materials.evaluate is not None:
        job.progress("evaluating what the runtimes compute", 0.7)
        said = {name: _metrics_in(name, model, job) for name in settings.runtimes}
        details["metrics"] = said
        for key in job.metrics.keys() - {"parameters", "macs", "size"}:
            metrics[key] = _worst([each.get(key, math.nan) for each in said.values()], job.metrics[key])
    slower = [str(each) for each in found.slower] if settings.must_be_faster else []
    return Outcome(job.model, job.quantized, details, metrics, of_dense, "\n".join(slower))


def _worst(said: Sequence[float], before: float) -> float:
    """Of what runtimes say of one metric, what is farthest from PyTorch; NaN where one of them could not be asked.

    So no budget is met by an answer that was not given.
    """
    if any(math.isnan(value) for value in said):
        return math.nan
    return max(said, key=lambda value: abs(value - before))


def _metrics_in(name: str, model: nn.Module, job: Job) -> dict[str, Any]:
    """The metric of what a runtime computes; where it cannot be had, why."""
    try:
        return dict(job.materials.metrics(_InRuntime(runtime_of(name, model, job))))
    except (TorchpareError, RuntimeError, ValueError) as error:  # a file of one batch size, and a metric of another
        return {"error": str(error).splitlines()[0]}


class _InRuntime(nn.Module):
    """A model to whom calls it, a program in a runtime in truth."""

    def __init__(self, runtime: Any) -> None:
        super().__init__()
        self.runtime = runtime

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the runtime computes, where the inputs are."""
        given = kwargs or (args[0] if len(args) == 1 else args)
        device = next((leaf.device for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)), "cpu")
        return on(str(device), self.runtime.inference(on("cpu", given))[0])
