"""One file that says every stage from a trained model to a measured small one, and what runs it."""

from __future__ import annotations

from torchpare.recipe.budget import Budget, Verdict
from torchpare.recipe.compress import compress
from torchpare.recipe.file import read_recipe, recipe_of, schema
from torchpare.recipe.materials import Given
from torchpare.recipe.result import Result, StageResult
from torchpare.recipe.run import run_recipe
from torchpare.recipe.schema import Recipe

__all__ = [
    "Budget",
    "Given",
    "Recipe",
    "Result",
    "StageResult",
    "Verdict",
    "compress",
    "read_recipe",
    "recipe_of",
    "run_recipe",
    "schema",
]
