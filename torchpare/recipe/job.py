"""What a stage has in its hands, and what it hands back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchpare.errors import ConfigError
from torchpare.quantization import Quantizer
from torchpare.recipe.artifact import Quantized
from torchpare.recipe.batches import Loss, begin_epoch, calibration_batches, on
from torchpare.recipe.named import class_of
from torchpare.recipe.settings import Training
from torchpare.recipe.training import Trainer
from torchpare.search.journal import digest
from torchpare.search.trial import seeded

__all__ = ["Job", "Materials", "Outcome", "evaluated"]


@dataclass(frozen=True, eq=False)
class Materials:
    """What all stages of a run share."""

    build: Callable[[], nn.Module]
    """A fresh dense model, with its weights."""
    train: Iterable[Any] | None
    evaluate: Callable[[nn.Module], Any] | None
    loss: Loss
    calibration: Iterable[Any] | None
    """Batches without targets."""
    example: Any
    """An example input, on the CPU."""
    seed: int
    device: str
    threads: int | None

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """What the user's metric says of a model, in evaluation mode; the model's own mode comes back.

        Raises:
            ConfigError: it says no numbers.
        """
        if self.evaluate is None:
            return {}
        with seeded(self.seed):  # a metric that draws says the same of the same model
            return evaluated(self.evaluate, model)

    def score(self) -> Score:
        """The metric as the one number that searches ask for.

        Raises:
            ConfigError: the recipe has no metric.
        """
        if self.evaluate is None:
            raise ConfigError("this asks what a candidate is worth: give the recipe 'evaluate'")
        return Score(self.evaluate)


@dataclass(frozen=True, eq=False)
class Job:
    """One stage at work."""

    materials: Materials
    folder: Path
    """Of the stage: its own files go here."""
    key: str
    """Names the stage; seeds what it draws."""
    model: nn.Module
    """As the stage before left it, on the device."""
    quantized: Quantized | None = None
    """How quantizers were put on it, where there are some."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured of it."""
    progress: Callable[[str, float], None] = lambda _what, _share: None
    """Told what is being done, and what share of the stage is over."""

    @property
    def example(self) -> Any:
        """An example input on the device."""
        return on(self.materials.device, self.materials.example)

    def trainer(self, settings: Training) -> Trainer:
        """What trains by a stage's settings.

        Raises:
            ConfigError: the recipe has no training data.
        """
        if self.materials.train is None:
            raise ConfigError("this stage trains, and the recipe has no training data: give data: {train: ...}, or "
                              "train= to torchpare.compress")  # fmt: skip
        return Trainer(self.materials.train, self.materials.loss, settings, self.materials.device, self.key)

    def calibration(self, count: int) -> list[Any]:
        """So many batches without targets, on the CPU.

        Raises:
            ConfigError: the recipe has neither calibration nor training data.
        """
        own, train = self.materials.calibration, self.materials.train
        batches = train if own is None else own
        if batches is None:
            raise ConfigError("this stage looks at data, and the recipe has none: give data: {calibration: ...} or "
                              "{train: ...}")  # fmt: skip
        seed = int(digest(self.key, "calibration")[:8], 16)
        begin_epoch(batches, 0, seed)  # whatever was drawn of them before, in this process or another
        with seeded(seed):
            return calibration_batches(batches, count, with_targets=own is None)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a stage came to."""

    model: nn.Module
    quantized: Quantized | None
    """How quantizers were put on, where there are some."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the report tells of this kind of stage; JSON-able."""
    metrics: Mapping[str, float] | None = None
    """Figures that budgets may ask for, beside those of every stage."""
    dense: Mapping[str, float] | None = None
    """Figures of the dense model that were measured along with these."""
    failure: str = ""
    """Why the run stops here, though the stage has done its work; empty where it does not."""


@dataclass(frozen=True, eq=False)
class Score:
    """A metric as one number: accuracy if that is among several. It goes to other processes if the metric does."""

    evaluate: Callable[[nn.Module], Any]

    def __call__(self, model: nn.Module) -> float:
        """What the metric says of a model."""
        said = evaluated(self.evaluate, model)
        return said.get("accuracy", next(iter(said.values())))


def put_on(model: nn.Module, said: Quantized, example: Any) -> Quantizer:
    """The quantizer that words name, on a model.

    Raises:
        ConfigError: it cannot be made of these words.
    """
    import torchpare.quantization as room

    cls = class_of(said.quantizer, room, Quantizer, "quantizer")
    try:
        quantizer = cls(
            model, [dict(entry) for entry in said.config_list], **arguments_for(cls, said.arguments, example)
        )
    except TypeError as error:
        raise ConfigError(f"{said.quantizer} does not take these arguments: {error}") from error
    return quantizer


def arguments_for(cls: Any, given: Mapping[str, Any], example: Any) -> dict[str, Any]:
    """The arguments of a constructor, with the example input where it takes one and was not told otherwise."""
    import inspect

    takes = inspect.signature(cls.__init__).parameters
    return {**({"dummy_input": example} if "dummy_input" in takes else {}), **given}


def evaluated(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> dict[str, float]:
    """What a metric says of a model: a number is called accuracy, several have names.

    Raises:
        ConfigError: it says something else.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            said = evaluate(model)
    finally:
        for module, training in modes:
            module.training = training
    named = dict(said) if isinstance(said, Mapping) else {"accuracy": said}
    try:
        return {str(name): float(value) for name, value in named.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"evaluate() returned {said!r}; it returns a number, or a dict of numbers by name") from error


def on_cpu(model: nn.Module) -> nn.Module:
    """A copy on the CPU, for files and runtimes."""
    return copy.deepcopy(model).cpu().eval()
