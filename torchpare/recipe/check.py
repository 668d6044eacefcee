"""What can be seen to be wrong with a recipe before any of its stages runs, hours of training ahead."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from torchpare.distillation import Distiller, terms_from_config
from torchpare.errors import ConfigError, MissingExtraError, TorchpareError
from torchpare.recipe.job import Job, Materials, put_on
from torchpare.recipe.named import build_model, in_words
from torchpare.recipe.optimizers import make_optimizer
from torchpare.recipe.replay import Replay
from torchpare.recipe.schema import Recipe
from torchpare.recipe.settings import (
    BenchmarkStage,
    ExportStage,
    FinetuneStage,
    PruneStage,
    QuantizeStage,
    ShrinkStage,
    StudyStage,
    Training,
)
from torchpare.recipe.stages.prune import PLAN, make_pruner
from torchpare.recipe.stages.quantize import words_of
from torchpare.speedup import plan

__all__ = ["budgets", "check"]

_LIBRARIES = {"onnx": ("onnx", "onnx"), "onnxruntime": ("onnxruntime", "onnx"), "openvino": ("openvino", "openvino"),
              "executorch": ("executorch", "executorch"), "tensorrt": ("tensorrt", "tensorrt")}  # fmt: skip
"""What formats and runtimes are made by, and the extras that bring it."""
_BENCHMARKED = ("latency", "memory", "speedup")
"""Metrics that a stage ``benchmark`` alone measures."""


def check(recipe: Recipe, materials: Materials) -> None:
    """See that every stage can be made of its words, on fresh copies of the dense model.

    Raises:
        ConfigError: a stage cannot; names it.
    """
    tried = False
    for number, item in enumerate(recipe.stages):
        try:
            _order(recipe, number)
            _stage(item.stage, materials)
            if not tried and isinstance(item.stage, FinetuneStage | QuantizeStage) and item.stage.epochs:
                _try_out(item.stage, materials)
                tried = True
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
    if isinstance(stage, PruneStage) and stage.pruner == PLAN and masked:
        raise ConfigError("there are masks that were not cut out: a stage 'shrink' comes before the pruner 'plan'")
    if isinstance(stage, StudyStage) and (quantized or masked):
        raise ConfigError("what is looked at is a plain model: put it before 'prune', or after 'shrink'")
    for budget in stage.budget:
        if budget.metric in _BENCHMARKED and not isinstance(stage, BenchmarkStage):
            raise ConfigError(
                f"the budget {budget.text!r} asks for what only a stage 'benchmark' measures: put it there"
            )


def _masks(stage: object) -> bool:
    return isinstance(stage, PruneStage) and stage.pruner != PLAN


def _stage(stage: object, materials: Materials) -> None:
    if isinstance(stage, Training) and (isinstance(stage, FinetuneStage) or getattr(stage, "epochs", 0)):
        make_optimizer(stage.optimizer, materials.build())
    if isinstance(stage, FinetuneStage | QuantizeStage):
        _training(stage, materials)
    if isinstance(stage, ExportStage | BenchmarkStage):
        _installed(stage.formats if isinstance(stage, ExportStage) else stage.runtimes)
    if isinstance(stage, StudyStage):
        if materials.train is None and materials.calibration is None:
            raise ConfigError("this stage looks at data, and the recipe has none: give data: {calibration: ...} or "
                              "{train: ...}")  # fmt: skip
        if stage.sensitivity:
            materials.score()
    if isinstance(stage, PruneStage) and stage.pruner == PLAN:
        plan(materials.build(), stage.config_list, materials.example)
    elif isinstance(stage, PruneStage):
        with tempfile.TemporaryDirectory() as folder:
            job = Job(materials, Path(folder), "check", materials.build())
            make_pruner(stage, job, Replay(job.folder))
    if isinstance(stage, QuantizeStage):
        model = materials.build()
        put_on(model, words_of(stage, model), materials.example)


def _training(stage: FinetuneStage | QuantizeStage, materials: Materials) -> None:
    """See that there is data to learn from, and that a teacher can be built and listened to."""
    if stage.epochs and materials.train is None:
        raise ConfigError("this stage trains, and the recipe has no training data: give data: {train: ...}, or train= "
                          "to torchpare.compress")  # fmt: skip
    if stage.distil is None:
        return
    if not stage.epochs:
        raise ConfigError("'distil' teaches while the model trains: give the stage epochs too")
    terms, said = terms_from_config(stage.distil.terms), stage.distil.teacher
    teacher = materials.build() if said is None else build_model(said)
    Distiller(materials.build(), teacher, terms).close()


def _try_out(stage: Training, materials: Materials) -> None:
    """See that a batch can be learnt from: the user's own data, model and loss together."""
    model = materials.build().to(materials.device)
    trainer = Job(materials, Path(), "check", model).trainer(stage)
    try:
        trainer.try_out(model)
    except TorchpareError:
        raise
    except Exception as error:
        raise ConfigError(f"the first training batch has no loss: {in_words(error)}") from error


def _installed(names: Sequence[str]) -> None:
    """See that what writes or runs the model is there."""
    for name in names:
        library = _LIBRARIES.get(name)
        if library is not None and find_spec(library[0]) is None:
            raise MissingExtraError(f"{name} needs {library[0]}, which is not installed; it comes with: pip install "
                                    f"'torchpare[{library[1]}]'")  # fmt: skip


def budgets(recipe: Recipe, dense: Mapping[str, float]) -> None:
    """See that what budgets ask for is measured, now that the dense model was.

    Args:
        recipe: whose budgets.
        dense: the metrics of the dense model.

    Raises:
        ConfigError: a budget could never be met; names its stage.
    """
    for number, item in enumerate(recipe.stages):
        known = sorted({*dense, "size", *(_BENCHMARKED if item.kind == "benchmark" else ())})
        for budget in item.stage.budget:
            if budget.metric not in known:
                near = get_close_matches(budget.metric, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise ConfigError(f"stages[{number}].{item.kind}: the budget {budget.text!r} asks for "
                                  f"{budget.metric!r}, which nothing measures; {hint}")  # fmt: skip
