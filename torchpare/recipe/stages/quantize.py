"""The stage ``quantize``: grids from some batches, or learnt while the model trains."""

from __future__ import annotations

from torchpare.attach import quantizers_of
from torchpare.errors import QuantizationError
from torchpare.quantization import ObserverQuantizer
from torchpare.recipe.artifact import Quantized
from torchpare.recipe.batches import on
from torchpare.recipe.job import Job, Outcome, put_on
from torchpare.recipe.schema import QuantizeStage
from torchpare.recipe.stages.finetune import taught, trained

__all__ = ["run"]


def run(settings: QuantizeStage, job: Job) -> Outcome:
    """Put a quantizer on the model, and calibrate it or train with it.

    Raises:
        ConfigError: the quantizer cannot be made of these words, or needs epochs and was given none.
        QuantizationError: as the quantizer.
    """
    said = Quantized(settings.quantizer, tuple(settings.config_list), settings.arguments)
    quantizer = put_on(job.model, said, job.example)
    details: dict[str, object] = {"quantizer": settings.quantizer}
    if isinstance(quantizer, ObserverQuantizer):
        batches = [on(job.materials.device, batch) for batch in job.calibration(settings.calibration_batches)]
        job.progress(f"watching {len(batches)} batches", 0.1)
        quantizer.calibrate(batches)
    else:
        quantizer.compress()
    if settings.epochs:
        trainer = taught(job.trainer(settings), settings.distil, job)
        details["history"] = trained(trainer, settings.epochs, job, listeners=(quantizer,))
    waiting = [each.name for _, _, _, each in quantizers_of(job.model) if each.observing and not bool(each.seen)]
    if waiting:
        raise QuantizationError(f"{settings.quantizer} learns its grids in training, and {waiting[0]} has seen no "
                                "data: give the stage epochs, or take quantizer: ObserverQuantizer")  # fmt: skip
    details["places"] = [{"name": each.name, "bits": each.spec.grid.bits} for _, _, _, each in quantizers_of(job.model)]
    return Outcome(job.model, said, details)
