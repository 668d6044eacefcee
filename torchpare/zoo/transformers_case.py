"""One line of the transformers suite as data, and the inputs that its models take.

Nothing here needs transformers: the library is imported when a case is built, so that the list of cases can be read
without it. Vocabulary, lengths and widths differ from each other wherever a family allows it, so that an engine that
confuses two dims of equal size is found out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "BATCH",
    "LENGTH",
    "VOCABULARY",
    "Case",
    "boxes",
    "documents",
    "encoder_decoder",
    "floats",
    "image",
    "image_and_text",
    "merged",
    "speech_to_text",
    "tokens",
    "wave",
]

BATCH = 2
LENGTH = 7
VOCABULARY = 99

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """What to build: a class of transformers, the settings of its config, and what to call it with.

    Attributes:
        model: Name of the model's class in transformers.
        config: Keywords of its config class.
        inputs: Makes the keywords of the call from a generator, the same ones for the same seed.
        output: The field of the model's output to return alone; None returns all of it. A model that returns hidden
            states keeps their width, since the width of an output is part of what a model promises; with the logits
            alone that width may go.
        nested: Keywords of the config that are themselves configs: keyword -> (config class, its keywords).
    """

    model: str
    config: dict[str, Any]
    inputs: Callable[[torch.Generator], Inputs]
    output: str | None = None
    nested: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)


def merged(base: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The settings of a family: those of its kind, and its own over them."""
    return {**base, **settings}


def tokens(
    *, mask: bool = False, length: int = LENGTH, vocabulary: int = VOCABULARY, types: int = 0
) -> Callable[[torch.Generator], Inputs]:
    """Text: ids of shape (B, L), on request with an attention mask of which the last sample hides two tokens."""

    def make(generator: torch.Generator) -> Inputs:
        inputs = {"input_ids": _ids((BATCH, length), vocabulary, generator)}
        if mask:
            attention = torch.ones(BATCH, length, dtype=torch.long)
            attention[-1, -2:] = 0
            inputs["attention_mask"] = attention
        if types:
            inputs["token_type_ids"] = torch.arange(length).mul(types).div(length).long().expand(BATCH, -1).contiguous()
        return inputs

    return make


def encoder_decoder(*, mask: bool = False, decoder_length: int = 5) -> Callable[[torch.Generator], Inputs]:
    """A source text and a shorter target text."""

    def make(generator: torch.Generator) -> Inputs:
        source = tokens(mask=mask)(generator)
        return source | {"decoder_input_ids": _ids((BATCH, decoder_length), VOCABULARY, generator)}

    return make


def image(
    height: int = 32, width: int | None = None, *, channels: int = 3, name: str = "pixel_values"
) -> Callable[[torch.Generator], Inputs]:
    """Images of shape (B, C, H, W)."""
    return floats(**{name: (channels, height, height if width is None else width)})


def floats(**shapes: tuple[int, ...]) -> Callable[[torch.Generator], Inputs]:
    """Normal numbers under each name, of the shape given after the batch dim."""

    def make(generator: torch.Generator) -> Inputs:
        return {name: torch.randn((BATCH, *shape), generator=generator) for name, shape in shapes.items()}

    return make


def wave(samples: int = 1600) -> Callable[[torch.Generator], Inputs]:
    """Raw audio of shape (B, samples)."""
    return floats(input_values=(samples,))


def speech_to_text(mel_bins: int, frames: int, *, decoder_length: int = 5) -> Callable[[torch.Generator], Inputs]:
    """A spectrogram of shape (B, mel bins, frames) and the text said so far."""

    def make(generator: torch.Generator) -> Inputs:
        spectrogram = torch.randn((BATCH, mel_bins, frames), generator=generator)
        return {
            "input_features": spectrogram,
            "decoder_input_ids": _ids((BATCH, decoder_length), VOCABULARY, generator),
        }

    return make


def image_and_text(size: int = 32, *, mask: bool = True) -> Callable[[torch.Generator], Inputs]:
    """Images and one text for each."""

    def make(generator: torch.Generator) -> Inputs:
        return tokens(mask=mask)(generator) | image(size)(generator)

    return make


def boxes(*, name: str = "bbox", limit: int = 64) -> Callable[[torch.Generator], Inputs]:
    """Text with the place of each token on its page: (B, L, 4) of left, top, right, bottom."""

    def make(generator: torch.Generator) -> Inputs:
        corner = torch.randint(0, limit // 2, (BATCH, LENGTH, 2), generator=generator)
        extent = torch.randint(1, limit // 2, (BATCH, LENGTH, 2), generator=generator)
        return tokens()(generator) | {name: torch.cat([corner, corner + extent], dim=-1)}

    return make


def documents(size: int = 32) -> Callable[[torch.Generator], Inputs]:
    """Text with places, and the image of the page."""

    def make(generator: torch.Generator) -> Inputs:
        return boxes()(generator) | image(size)(generator)

    return make


def _ids(shape: tuple[int, int], vocabulary: int, generator: torch.Generator) -> Tensor:
    """Token ids that avoid the special ones at the start of the vocabulary (padding above all)."""
    return torch.randint(5, vocabulary, shape, generator=generator)
