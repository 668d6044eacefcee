"""What each kind of stage does: one file each, one function ``run(settings, job) -> Outcome``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchpare.recipe.job import Job, Outcome
from torchpare.recipe.stages import benchmark, export, finetune, prune, quantize, shrink, study

__all__ = ["RUN"]

RUN: dict[str, Callable[[Any, Job], Outcome]] = {
    "prune": prune.run,
    "shrink": shrink.run,
    "finetune": finetune.run,
    "quantize": quantize.run,
    "export": export.run,
    "benchmark": benchmark.run,
    "study": study.run,
}
"""By the kinds that a recipe names."""
