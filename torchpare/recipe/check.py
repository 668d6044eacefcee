"""What can be seen to be wrong with a recipe before any of its stages runs, hours of training ahead."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torchpare.distillation import terms_from_config
from torchpare.errors import ConfigError, TorchpareError
from torchpare.recipe.artifact import Quantized
from torchpare.recipe.job import Job, Materials, put_on
from torchpare.recipe.replay import Replay
from torchpare.recipe.schema import (
    BenchmarkStage,
    ExportStage,
    FinetuneStage,
    PruneStage,
    QuantizeStage,
    Recipe,
    ShrinkStage,
    StudyStage,
    Training,
)
from torchpare.recipe.stages.prune import PLAN, make_pruner
from torchpare.recipe.training import make_optimizer
from torchpare.speedup import plan

__all__ = ["check"]

_MEASURED = {"latency": (BenchmarkStage,), "speedup": (BenchmarkStage,)}


def check(recipe: Recipe, materials: Materials) -> None:
    """See that every stage can be made of its words, on fresh copies of the dense model.

    Raises:
        ConfigError: a stage cannot; names it.
    """
    for number, item in enumerate(recipe.stages):
        try:
            _order(recipe, number)
            _stage(item.stage, materials)
        except TorchpareError as error:
            raise ConfigError(f"stages[{number}].{item.kind}: {error}") from error


def _order(recipe: Recipe, number: int) -> None:
    """See that a stage finds what it needs, and nothing that it cannot bear."""
    stage, before = recipe.stages[number].stage, [item.stage for item in recipe.stages[:number]]
    quantized = any(isinstance(each, QuantizeStage) for each in before)
    masked = False
    for each in before:
        masked = _masks(each) or (masked and not isinstance(each, ShrinkStage))
    if isinstance(stage, ShrinkStage) and not masked:
        raise ConfigError("there are no masks to cut out: a stage 'prune' comes before")
    if quantized and isinstance(stage, PruneStage | ShrinkStage | QuantizeStage):
        raise ConfigError("the model is quantized already; prune and shrink it first, and quantize it once")
    if isinstance(stage, ExportStage) and quantized and "safetensors" in stage.formats:
        raise ConfigError("'safetensors' holds plain models; for the quantized one take 'onnx' or another runtime's "
                          "format, or export before 'quantize' as well")  # fmt: skip
    if isinstance(stage, StudyStage) and (quantized or masked):
        raise ConfigError("what is looked at is a plain model: put it before 'prune', or behind 'shrink'")
    for budget in stage.budget:
        where = _MEASURED.get(budget.metric)
        if where is not None and not isinstance(stage, where):
            raise ConfigError(
                f"the budget {budget.text!r} asks for what only a stage 'benchmark' measures: put it there"
            )


def _masks(stage: object) -> bool:
    return isinstance(stage, PruneStage) and stage.pruner != PLAN


def _stage(stage: object, materials: Materials) -> None:
    if isinstance(stage, Training) and (isinstance(stage, FinetuneStage) or getattr(stage, "epochs", 0)):
        make_optimizer(stage.optimizer, materials.build())
    if isinstance(stage, FinetuneStage) and materials.train is None:
        raise ConfigError("this stage trains, and the recipe has no training data: give data: {train: ...}, or train= "
                          "to torchpare.compress")  # fmt: skip
    if isinstance(stage, FinetuneStage | QuantizeStage) and stage.distil is not None:
        terms_from_config(stage.distil.terms)
    if isinstance(stage, PruneStage) and stage.pruner == PLAN:
        plan(materials.build(), stage.config_list, materials.example)
    elif isinstance(stage, PruneStage):
        with tempfile.TemporaryDirectory() as folder:
            job = Job(materials, Path(folder), "check", materials.build())
            make_pruner(stage, job, Replay(job.folder))
    if isinstance(stage, QuantizeStage):
        put_on(materials.build(), Quantized(stage.quantizer, tuple(stage.config_list), stage.arguments),
               materials.example)  # fmt: skip
