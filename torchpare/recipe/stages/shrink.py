"""The stage ``shrink``: what was masked is cut out, and the small model is held beside the masked one in float64."""

from __future__ import annotations

from torchpare.attach import is_attached, quantizers_of
from torchpare.errors import ConfigError
from torchpare.recipe.job import Job, Outcome
from torchpare.recipe.settings import ShrinkStage
from torchpare.speedup import ModelSpeedup

__all__ = ["run"]


def run(settings: ShrinkStage, job: Job) -> Outcome:
    """Make the model small.

    Raises:
        ConfigError: nothing is masked.
        ProofError, ShrinkError, CaptureError: as :class:`torchpare.ModelSpeedup`.
    """
    if not is_attached(job.model):
        raise ConfigError("there are no masks to cut out: a stage 'prune' comes before 'shrink'")
    job.progress("cutting out what is masked, and comparing", 0.1)
    if next(quantizers_of(job.model), None) is not None:
        raise ConfigError("the model is quantized already: 'shrink' comes before 'quantize'")
    report = ModelSpeedup(job.model, job.example, tolerance=settings.tolerance).speedup_model()
    return Outcome(job.model, None, {"shrink": report.to_dict(), "says": str(report).splitlines()})
