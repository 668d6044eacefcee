"""The stage ``study``: what the model is made of by now, for the run's page and as insight.json."""

from __future__ import annotations

from torchpare.attach import is_attached, quantizers_of
from torchpare.errors import ConfigError
from torchpare.insight import study
from torchpare.recipe.job import Job, Outcome, on_cpu
from torchpare.recipe.settings import StudyStage

__all__ = ["run"]


def run(settings: StudyStage, job: Job) -> Outcome:
    """Look at the model from all sides; it stays as it is.

    Raises:
        ConfigError: masks or quantizers hang on it, or nothing evaluates it and sensitivities are asked for.
    """
    if is_attached(job.model) or next(quantizers_of(job.model), None) is not None:
        raise ConfigError("what is looked at is a plain model: put the stage 'study' before 'prune', or after 'shrink'")
    job.progress("looking at every layer", 0.1)
    evaluate = job.materials.score() if settings.sensitivity else None
    found = study(
        on_cpu(job.model), job.materials.example, job.calibration(settings.batches), evaluate, bits=settings.bits,
        sparsities=settings.sparsities, name="The model",
    )  # fmt: skip
    found.write_json(job.folder / "insight.json")
    return Outcome(job.model, job.quantized, {"sections": [section.to_dict() for section in found.sections()]})
