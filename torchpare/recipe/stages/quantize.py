"""The stage ``quantize``: grids from some batches, or learnt while the model trains."""

from __future__ import annotations

from torch import nn

from torchpare.attach import quantizers_of
from torchpare.config.layers import FILTERED, plain_class
from torchpare.errors import ConfigError, QuantizationError
from torchpare.quantization import ObserverQuantizer
from torchpare.recipe.artifact import Quantized
from torchpare.recipe.batches import on
from torchpare.recipe.job import Job, Outcome, put_on
from torchpare.recipe.settings import QuantizeStage
from torchpare.recipe.stages.finetune import taught, trained

__all__ = ["run", "words_of"]


def run(settings: QuantizeStage, job: Job) -> Outcome:
    """Put a quantizer on the model, and calibrate it or train with it.

    Raises:
        ConfigError: the quantizer cannot be made of these words.
        QuantizationError: as the quantizer; or it learns in training, and was given no epochs.
    """
    said = words_of(settings, job.model)
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


def words_of(settings: QuantizeStage, model: nn.Module) -> Quantized:
    """How a stage says that a model is quantized.

    Raises:
        ConfigError: it does not say what, and the model has neither convolutions nor linear layers.
    """
    entries = settings.config_list
    if entries is None:
        types = sorted({kind.__name__ for kind in map(plain_class, model.modules()) if kind in FILTERED})
        if not types:
            raise ConfigError("the model has no convolutions and no linear layers: give a config_list that says what "
                              "to quantize")  # fmt: skip
        entries = [{"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": types}]
    return Quantized(settings.quantizer, tuple(entries), settings.arguments)
