"""The model of a run, out of its folder: as it was after any of its stages."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from torchpare.errors import ConfigError
from torchpare.recipe.artifact import Quantized, read_artifact
from torchpare.recipe.file import recipe_of
from torchpare.recipe.job import put_on
from torchpare.recipe.materials import Given, gather
from torchpare.recipe.named import importing_from
from torchpare.recipe.reading import read_result

__all__ = ["is_run", "model_of_run"]


def is_run(word: str) -> bool:
    """Whether a word names the folder of a run, with or without ``@stage``."""
    return (Path(word.rpartition("@")[0] or word) / "result.json").is_file() or (Path(word) / "result.json").is_file()


def model_of_run(word: str) -> nn.Module:
    """The model of a run.

    Args:
        word: the run's folder; ``FOLDER@STAGE`` is the model after a stage, by its name or number, ``dense`` among
            them, and not the last one's.

    Raises:
        ConfigError: the run has no such stage, or its recipe did not name the model.
        FileError: files are missing or spoilt.
    """
    folder, _, stage = word.rpartition("@") if not (Path(word) / "result.json").is_file() else (word, "", "")
    result = read_result(Path(folder))
    named = {name: each for each in result.stages for name in (each.name, str(each.number))}
    if stage and stage not in named:
        raise ConfigError(f"{folder} has no stage {stage!r}; it has {', '.join(each.name for each in result.stages)}")
    if "model" not in result.settings:
        raise ConfigError(f"the run in {folder} was given its model as an object, so that it cannot be built again: "
                          "load the stage's model.safetensors with torchpare.load")  # fmt: skip
    recipe = recipe_of(result.settings, source=f"{folder}/result.json")
    with importing_from(result.beside):
        materials, _ = gather(recipe, Given(folder=result.beside))

        def hang(model: nn.Module, said: Quantized) -> None:
            put_on(model, said, materials.example).compress()

        chosen = named[stage] if stage else result.stages[-1]
        model, _ = read_artifact(materials.build(), result.folder / chosen.folder, hang)
    return model.eval()
