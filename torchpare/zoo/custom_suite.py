"""The zoo's custom suite: small hand-written nets, each about one thing that people do in a model's source.

They are ordinary user code on purpose: nothing in them knows that it will be pruned. Widths differ from each other
wherever they can, so that an engine that confuses two dims of equal size is found out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchpare.errors import ConfigError
from torchpare.zoo.custom_attention import ATTENTION
from torchpare.zoo.custom_buffers import BUFFERS
from torchpare.zoo.custom_case import Builder
from torchpare.zoo.custom_channels import CHANNELS
from torchpare.zoo.custom_convolutions import CONVOLUTIONS
from torchpare.zoo.custom_features import FEATURES
from torchpare.zoo.custom_libraries import LIBRARIES
from torchpare.zoo.custom_papers import PAPERS
from torchpare.zoo.custom_recurrent import RECURRENT
from torchpare.zoo.custom_sequences import SEQUENCES
from torchpare.zoo.custom_source import SOURCE
from torchpare.zoo.custom_structures import STRUCTURES
from torchpare.zoo.custom_torch_attention import TORCH_ATTENTION
from torchpare.zoo.custom_weights import WEIGHTS

__all__ = ["NAMES", "build"]

_SEED = 20
_BUILDERS: dict[str, Builder] = {
    **RECURRENT,
    **CONVOLUTIONS,
    **CHANNELS,
    **ATTENTION,
    **TORCH_ATTENTION,
    **WEIGHTS,
    **FEATURES,
    **STRUCTURES,
    **SEQUENCES,
    **SOURCE,
    **BUFFERS,
    **LIBRARIES,
    **PAPERS,
}

NAMES: tuple[str, ...] = tuple(_BUILDERS)


def build(name: str) -> tuple[nn.Module, Any]:
    """Builds the named net in evaluation mode, and what to call it with; the same ones every time.

    Returns:
        The net, and a tensor, a tuple of positional arguments or a dict of keywords.

    Raises:
        ConfigError: No net has that name.
    """
    builder = _BUILDERS.get(name)
    if builder is None:
        raise ConfigError(f"the custom suite has no model {name!r}; its models are {', '.join(NAMES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model, inputs = builder(torch.Generator().manual_seed(_SEED))
    return model.eval(), inputs
