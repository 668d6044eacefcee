"""``torchpare.compress``: a recipe from Python, on objects that are there already."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from torchpare.recipe.batches import Loss
from torchpare.recipe.file import read_recipe, recipe_of
from torchpare.recipe.materials import Given
from torchpare.recipe.result import Result
from torchpare.recipe.run import run_recipe
from torchpare.recipe.schema import Recipe

__all__ = ["compress"]

Said = Recipe | Mapping[str, Any] | Sequence[Any] | str | os.PathLike[str]


def compress(
    model: nn.Module,
    recipe: Said,
    *,
    train: Iterable[Any] | Callable[[], Iterable[Any]] | None = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
    example_inputs: Any = None,
    calibration: Iterable[Any] | None = None,
    loss: Loss | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = True,
) -> Result:
    """Take a trained model through every stage of a recipe.

        result = torchpare.compress(model, [{"prune": {"config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}},
                                            "shrink", {"finetune": {"epochs": 3, "budget": "accuracy >= 0.97"}}],
                                    train=loader, evaluate=accuracy)
        result.model

    Args:
        model: stays as it is; ``result.model`` is the small one.
        recipe: a list of stages, a dict as in a recipe file, a :class:`Recipe`, or the path of a YAML file.
        train: batches to learn from, that can be gone through again and again: ``(input, ..., target)``, or dicts of
            keyword arguments with ``labels``.
        evaluate: ``evaluate(model)`` gives a number, called accuracy in budgets, or a dict of numbers by name.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments; the first two of the
            first training batch, if not given.
        calibration: batches without targets, for quantizers; those of ``train``, if not given.
        loss: ``loss(output, batch)``; the output's own ``loss``, or cross entropy with the target, if not given.
        folder: where every stage keeps what it made, so that an interrupted run goes on where it was when it is called
            again; a temporary one, if not given.
        resume: False runs every stage anew.

    Returns:
        the model and every stage's figures. ``result.ok`` says whether all budgets are met.

    Raises:
        ConfigError: the recipe cannot be carried out as it is; nothing was run.
        FileError: a file or the folder cannot be used.
        RecipeError: a stage failed; the ones before it are done.
    """
    beside = None
    if isinstance(recipe, str | os.PathLike):
        beside = Path(recipe).parent
        recipe = read_recipe(recipe)
    given = Given(model, train, evaluate, example_inputs, calibration, loss, beside)
    return run_recipe(recipe_of(recipe), None if folder is None else Path(folder), given, resume=resume)
