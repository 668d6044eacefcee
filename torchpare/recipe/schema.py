"""What a recipe may say: a model, its data and metric, and the stages that it goes through.

A recipe is data and nothing else; models, loaders and functions are named as ``package.module:callable``, or given to
:func:`torchpare.compress` as objects. A recipe file is these models written as YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from torchpare.recipe.settings import (
    BenchmarkStage,
    ExportStage,
    FinetuneStage,
    Named,
    PruneStage,
    QuantizeStage,
    ShrinkStage,
    Stage,
    Strict,
    StudyStage,
)

__all__ = ["Data", "Recipe", "StageItem"]

Kind = Literal["prune", "shrink", "finetune", "quantize", "export", "benchmark", "study"]


class StageItem(Strict):
    """One stage, under its kind."""

    prune: PruneStage | None = None
    shrink: ShrinkStage | None = None
    finetune: FinetuneStage | None = None
    quantize: QuantizeStage | None = None
    export: ExportStage | None = None
    benchmark: BenchmarkStage | None = None
    study: StudyStage | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        """``shrink`` and ``shrink:`` are short for ``shrink: {}``."""
        if isinstance(value, str):
            value = {value: {}}
        if isinstance(value, Mapping):
            if len(value) != 1:
                raise ValueError(f"a stage has one kind, {' or '.join(get_args(Kind))}, with its settings below it; "
                                 f"here are {', '.join(map(str, value)) or 'none'}")  # fmt: skip
            return {kind: {} if settings is None else settings for kind, settings in value.items()}
        return value

    @property
    def kind(self) -> str:
        """Its kind."""
        return next(kind for kind in get_args(Kind) if getattr(self, kind) is not None)

    @property
    def stage(self) -> Stage:
        """Its settings."""
        return getattr(self, self.kind)


class Data(Strict):
    """Where batches come from; each callable gives something that can be gone through again and again."""

    train: Named | None = None
    """Batches to learn from: ``(input, ..., target)``, or a dict of keyword arguments with ``labels``."""
    calibration: Named | None = None
    """Batches without targets, for quantizers and runtimes; those of ``train``, if not given."""


class Recipe(Strict):
    """Every stage from a trained model to a small one that was measured."""

    name: str = Field(default="recipe", pattern=r"^\w[\w.-]*$")
    """Of the run, in tables, pages and folders."""
    model: Named | None = None
    """What builds the model."""
    checkpoint: str | None = None
    """Its weights: a .safetensors file, or a state dict that ``torch.load(weights_only=True)`` reads."""
    example_inputs: str | list[str] | None = None
    """Shapes such as 1x3x224x224, 2x16:int64 or name=2x16:int64; or ``package.module:callable``. The first two of the
    first training batch, if not given."""
    data: Data = Data()
    """Batches."""
    evaluate: Named | None = None
    """``evaluate(model)`` gives the metric, called accuracy in budgets, or several by name. A call with ``args`` and
    ``kwargs`` gets them after the model."""
    loss: Named | None = None
    """``loss(output, batch)``. If not given: the output's own ``loss``, or cross entropy with the target."""
    seed: int = Field(default=0, ge=0)
    """Of everything that is drawn."""
    device: str = "cpu"
    """Where stages train."""
    threads: int | None = Field(default=None, ge=1)
    """For PyTorch and the runtimes; torch's own number, if not given."""
    stages: list[StageItem] = Field(min_length=1)
    """In their order."""

    @field_validator("stages")
    @classmethod
    def _names_differ(cls, items: list[StageItem]) -> list[StageItem]:
        seen: dict[str, int] = {}
        for number, item in enumerate(items):
            name = item.stage.name
            if name is not None and (name == "dense" or name.isdigit()):
                raise ValueError(f"stage {number} is called {name!r}, as the model before all stages, or as a stage's "
                                 "number; give it another name")  # fmt: skip
            if name is not None and name in seen:
                raise ValueError(f"stages {seen[name]} and {number} are both called {name!r}; give each its own name")
            if name is not None:
                seen[name] = number
        return items
