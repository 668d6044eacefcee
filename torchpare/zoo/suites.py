"""The suites by name, and how a model of one is built: a thin table, whose modules are loaded when they are asked for.

A suite is a module with

    NAMES: tuple[str, ...]                       its models
    build(name) -> (model, inputs)               in evaluation mode; inputs as for torchpare.plan
    training_inputs(name, inputs) -> inputs      if a model trains on something else than it evaluates
    varying(name) -> bool                        if the sizes of a model's outputs hang on its weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from torchpare.errors import ConfigError, MissingExtraError
from torchpare.zoo.outputs import run
from torchpare.zoo.randomise import randomise, settle_norms

__all__ = ["SUITES", "Case", "Suite", "case", "names"]


@dataclass(frozen=True)
class Suite:
    """Where a suite lives, the library that its models come from, and what lists them: a tuple or a function."""

    module: str
    library: str | None = None
    names: str = "NAMES"


SUITES: dict[str, Suite] = {
    "torchvision": Suite("torchpare.zoo.torchvision_suite", "torchvision"),
    "timm": Suite("torchpare.zoo.timm_suite", "timm"),
    "timm-all": Suite("torchpare.zoo.timm_suite", "timm", "all_names"),
    "transformers": Suite("torchpare.zoo.transformers_suite", "transformers"),
    "custom": Suite("torchpare.zoo.custom_suite"),
}


@dataclass(frozen=True)
class Case:
    """One model of a suite.

    Attributes:
        name: in the suite.
        source: the suite's own builder.
        training: what to train on, given what the model evaluates on.
        varying: whether the sizes of the outputs hang on the weights, as the number of objects that a detector finds.
    """

    name: str
    source: Callable[[str], tuple[nn.Module, Any]]
    training: Callable[[str, Any], Any] = lambda _, inputs: inputs
    varying: bool = False

    def build(self, seed: int = 0) -> tuple[nn.Module, Any]:
        """A fresh model in evaluation mode, with random values everywhere, and the inputs to run it on."""
        torch.manual_seed(seed)
        model, inputs = self.source(self.name)
        randomise(model.eval(), torch.Generator().manual_seed(seed))
        return settle_norms(model, lambda: run(model, inputs)), inputs

    def training_inputs(self, inputs: Any) -> Any:
        """What to train on."""
        return self.training(self.name, inputs)


def names(suite: str) -> tuple[str, ...]:
    """The models of a suite, in order.

    Raises:
        ConfigError: there is no such suite.
        MissingExtraError: the library that its models come from is not installed.
    """
    if suite not in SUITES:
        raise ConfigError(f"there is no suite {suite!r}; there are {', '.join(SUITES)}")
    home = SUITES[suite]
    if home.library is not None and find_spec(home.library) is None:
        raise MissingExtraError(
            f"the suite {suite!r} needs {home.library}, which is not installed; it comes with: "
            "pip install 'torchpare[zoo]'"
        )
    listed: Any = getattr(import_module(home.module), home.names)
    return tuple(listed if isinstance(listed, tuple) else listed())


def case(module: str, name: str) -> Case:
    """One model of the suite that lives in `module`."""
    suite = import_module(module)
    optional = {key: getattr(suite, home) for key, home in [("training", "training_inputs")] if hasattr(suite, home)}
    varying = bool(suite.varying(name)) if hasattr(suite, "varying") else False
    return Case(name, suite.build, varying=varying, **optional)
