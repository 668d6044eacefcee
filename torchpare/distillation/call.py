"""What the models were called with, by name, and which of its tokens count."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.errors import ConfigError

__all__ = ["Call", "read_call"]

_MASK = "attention_mask"
_DECODER_MASK = "decoder_attention_mask"


@dataclass(frozen=True)
class Call:
    """The inputs of one call, by the names of the model's parameters, as far as they could be told."""

    arguments: Mapping[str, Any]
    two_sequences: bool
    """Whether the model has an encoder and a decoder, each with tokens of its own."""

    def counted(self, mask: str | None, tokens: tuple[int, ...], who: str, *, decoder: bool = False) -> Tensor | None:
        """Which tokens count, bool ``(N, T)``; None where all do.

        Args:
            mask: the name of an input, ``"auto"``, or None.
            tokens: the shape ``(N, T)`` of the tokens in question.
            who: asks, for messages.
            decoder: the tokens are those of the decoder, if there is one.

        Raises:
            ConfigError: there is no such input, it does not fit the tokens, or which mask is meant cannot be told.
        """
        if mask is None:
            return None
        name = self._automatic(who, decoder=decoder) if mask == "auto" else mask
        given = self.arguments.get(name)
        if given is None and mask == "auto":
            return None
        if not isinstance(given, Tensor):
            names = ", ".join(map(repr, self.arguments)) or "none"
            raise ConfigError(f"{who}: there is no tensor {name!r} among the inputs given to the distiller, which are "
                              f"{names}; pass it to the distiller too, or say mask=None")  # fmt: skip
        if tuple(given.shape) != tuple(tokens):
            raise ConfigError(
                f"{who}: {name!r} is {tuple(given.shape)}, and its tokens are {tuple(tokens)}; name the input that "
                "fits with mask=, or say mask=None to count everything"
            )
        real = given if given.dtype == torch.bool else given > 0
        return ~real if name.endswith("key_padding_mask") else real

    def _automatic(self, who: str, *, decoder: bool) -> str:
        if not self.two_sequences:
            return _MASK
        if not decoder and any(self.arguments.get(name) is not None for name in (_MASK, _DECODER_MASK)):
            raise ConfigError(f"{who}: the model has an encoder and a decoder, whose tokens differ; say "
                              f"mask={_MASK!r}, mask={_DECODER_MASK!r} or mask=None")  # fmt: skip
        return _DECODER_MASK


def read_call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Names for what a model is called with; positions that no signature names stay nameless."""
    parameters = inspect.signature(model.forward).parameters
    named = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return Call({**dict(zip(named, args, strict=False)), **kwargs}, "decoder_input_ids" in parameters)
