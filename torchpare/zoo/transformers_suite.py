"""The zoo's transformers suite: one or more small models of every family, from local configs with random weights.

Nothing is downloaded. A model that returns hidden states keeps their width, so most cases are task models that return
logits; where the library adds hidden states to the logits (encoder with decoder), the case returns the logits alone
and one case of the family returns everything.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.errors import ConfigError, MissingExtraError
from torchpare.zoo.transformers_audio import AUDIO
from torchpare.zoo.transformers_case import Case
from torchpare.zoo.transformers_decoders import DECODERS
from torchpare.zoo.transformers_encoders import ENCODERS
from torchpare.zoo.transformers_pairs import PAIRS
from torchpare.zoo.transformers_recurrent import RECURRENT
from torchpare.zoo.transformers_scenes import SCENES
from torchpare.zoo.transformers_vision import VISION
from torchpare.zoo.vision import torchvision_models

__all__ = ["NAMES", "build", "varying"]

_SEED = 20
_CASES: dict[str, Case] = {**ENCODERS, **DECODERS, **RECURRENT, **PAIRS, **AUDIO, **VISION, **SCENES}

NAMES: tuple[str, ...] = tuple(_CASES)


class OneOutput(nn.Module):
    """A model whose output is one field of what it returned.

    Args:
        model: Returns an output with named fields.
        field: The field that is wanted.
    """

    def __init__(self, model: nn.Module, field: str) -> None:
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, **inputs: Tensor) -> Tensor:
        """Calls the model and returns the wanted field."""
        return getattr(self.model(**inputs), self.field)


def build(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Builds the named model in evaluation mode, and keywords to call it with; the same ones every time.

    Raises:
        ConfigError: No case has that name.
        MissingExtraError: transformers is not installed.
    """
    case = _CASES.get(name)
    if case is None:
        raise ConfigError(f"the transformers suite has no model {name!r}; its models are {', '.join(NAMES)}")
    library = _transformers()
    model_class = getattr(library, case.model)
    nested = {key: getattr(library, kind)(**settings) for key, (kind, settings) in case.nested.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model: nn.Module = model_class(model_class.config_class(**case.config, **nested))
    if case.output is not None:
        model = OneOutput(model, case.output)
    return model.eval(), case.inputs(torch.Generator().manual_seed(_SEED))


def varying(name: str) -> bool:
    """Whether the sizes of the named model's outputs hang on its weights: VITS says how long it speaks."""
    return name == "vits"


def _transformers() -> Any:
    """The library. It imports torchvision wherever that is installed."""
    with suppress(MissingExtraError):  # transformers does without torchvision, but not with one that fails to import
        torchvision_models()
    try:
        return import_module("transformers")
    except ImportError as error:
        raise MissingExtraError(
            "the transformers suite builds models of transformers, which is not installed; "
            "say: pip install 'torchpare[zoo]'"
        ) from error
