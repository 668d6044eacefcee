"""From a recipe's words, and the objects that were given beside it, to what its stages work with."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from torchpare.errors import ConfigError
from torchpare.recipe.artifact import load_weights
from torchpare.recipe.batches import Loss, begin_epoch, default_loss, first_example, on, read_again
from torchpare.recipe.code import of_data, of_model_code, of_use
from torchpare.recipe.job import Materials
from torchpare.recipe.named import build_model, called, found, in_words, is_shape, read_inputs
from torchpare.recipe.schema import Recipe
from torchpare.recipe.settings import Call
from torchpare.search.fingerprint import of_example, of_model
from torchpare.search.trial import seeded

__all__ = ["Given", "gather"]


@dataclass(frozen=True, eq=False)
class Given:
    """Objects in place of what a recipe may name."""

    model: nn.Module | None = None
    train: Any = None
    evaluate: Callable[[nn.Module], Any] | None = None
    example_inputs: Any = None
    calibration: Iterable[Any] | None = None
    loss: Loss | None = None
    folder: Path | None = None
    """Of the recipe file: relative paths begin here."""


def gather(recipe: Recipe, given: Given) -> tuple[Materials, str]:
    """What all stages share, and a name for it: equal for runs that begin alike.

    Raises:
        ConfigError: something is missing, cannot be found, or fails.
        CheckpointError: the checkpoint does not fit the model.
    """
    build, of_dense = _builder(recipe, given)
    train = _batches(recipe.data.train, given.train, "data.train")
    calibration = _batches(recipe.data.calibration, given.calibration, "data.calibration")
    evaluate, loss = given.evaluate, given.loss
    if evaluate is None and recipe.evaluate is not None:
        evaluate = _Evaluate(recipe.evaluate)
    if loss is None:
        loss = default_loss if recipe.loss is None else found(recipe.loss.callable)
        if recipe.loss is not None and (recipe.loss.args or recipe.loss.kwargs):
            loss = functools.partial(loss, *recipe.loss.args, **recipe.loss.kwargs)
    for name, function in (("evaluate", evaluate), ("loss", loss)):
        if function is not None and not callable(function):
            raise ConfigError(f"{name} is a {type(function).__name__}, which cannot be called")
    example = _example(recipe, given, train)
    materials = Materials(
        build, train, evaluate, loss, calibration, example, recipe.seed, recipe.device, recipe.threads
    )
    words = recipe.model_dump(mode="json", exclude={"stages", "name"})
    calls = (recipe.model, recipe.data.train, recipe.data.calibration, recipe.evaluate, recipe.loss)
    codes = [of_use(found(call.callable)) for call in calls if call is not None]
    objects = [of_use(evaluate), of_use(loss), of_data(given.train), of_data(given.calibration)]
    return materials, repr((words, of_dense, codes, objects, of_example(example)))


def _builder(recipe: Recipe, given: Given) -> tuple[Callable[[], nn.Module], str]:
    """What builds the dense model anew, and a name for its weights."""
    if given.model is not None:
        if not isinstance(given.model, nn.Module):
            raise ConfigError(f"the model is a {type(given.model).__name__}, not a torch.nn.Module")
        kept = copy.deepcopy(given.model).eval()  # the user's own stays as it is, and may change meanwhile
        return (lambda: copy.deepcopy(kept)), _of_dense(kept)
    if recipe.model is None:
        raise ConfigError("the recipe names no model: give 'model', as package.module:callable")
    call, checkpoint, seed = recipe.model, _path(recipe.checkpoint, given.folder), recipe.seed
    named = isinstance(found(call.callable), nn.Module)

    def build() -> nn.Module:
        with seeded(seed):  # where there is no checkpoint, the weights that the class draws are the same every time
            model = build_model(call)
        model = copy.deepcopy(model) if named else model
        return model if checkpoint is None else load_weights(model, checkpoint)

    return build, _of_dense(build())


def _of_dense(model: nn.Module) -> str:
    """A name for a model: its weights, and what its classes compute."""
    return f"{of_model(model)} {of_model_code(model)}"


def _batches(call: Call | None, given: Any, what: str) -> Any:
    if given is not None:
        return read_again(given, what)
    if call is None:
        return None
    return read_again(called(call, what="batches"), f"{what}, what {call.callable}() gives,")


def _example(recipe: Recipe, given: Given, train: Any) -> Any:
    said = recipe.example_inputs
    if given.example_inputs is not None:
        example = given.example_inputs
    elif said is None:
        if train is None:
            raise ConfigError("there is neither 'example_inputs' nor training data to take them from: give a shape, "
                              "such as 1x3x224x224")  # fmt: skip
        begin_epoch(train, 0, recipe.seed)
        try:
            with seeded(recipe.seed):
                example = first_example(train)
        except ConfigError:
            raise
        except Exception as error:  # the data is the user's, and may raise anything
            raise ConfigError(f"the training data gives no batch: {in_words(error)}") from error
    elif isinstance(said, str) and not is_shape(said):
        example = called(Call(callable=said), what="example inputs")
    else:
        example = read_inputs([said] if isinstance(said, str) else said)
    return on("cpu", example)


def _path(checkpoint: str | None, folder: Path | None) -> Path | None:
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    beside = path if folder is None else folder / path
    return beside if beside.exists() or not path.exists() else path


@dataclass(frozen=True)
class _Evaluate:
    """A metric by its name: other processes find it by themselves."""

    call: Call

    def __call__(self, model: nn.Module) -> Any:
        return found(self.call.callable)(model, *self.call.args, **self.call.kwargs)
