"""What a loss is made of: terms, each with a weight, and those of them that compare what layers return."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from torch import Tensor

from torchpare.distillation.address import Address, read_address
from torchpare.errors import ConfigError

__all__ = ["Channels", "FeatureTerm", "Layer", "Term", "check_number"]

Channels = Literal["kept", "all"]

Layer = str | Sequence[str]
"""A layer of the student, or a pair of one and the layer of the teacher that it learns from."""


class Term:
    """A part of the loss: `torchpare.distillation.SoftTargets`, or a `torchpare.distillation.FeatureTerm`."""

    weight: float
    """Times which the term counts."""

    @classmethod
    def word(cls) -> str:
        """The name of its kind in recipes and in messages: ``soft_targets``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@dataclass(frozen=True)
class FeatureTerm(Term, ABC):
    """A part of the loss that compares what layers of the student and of the teacher return, layer by layer.

    For a loss of your own, subclass it and say in ``compare`` how far two tensors are apart.

    Args:
        layers: names of the student's layers, as in ``model.named_modules()``; the loss is the sum over them. Of what a
            layer returns the first tensor is taken; ``"attention[1]"`` takes the second, ``"[hidden_states][4]"`` the
            fifth of those that the model itself returns. A pair ``("layer1", "layer2")`` names the teacher's layer
            too, where it is not the one of the same name (or the one that it was before blocks were dropped).
        weight: times which the term counts.
        channels: ``"kept"`` compares a pruned student's channels with those of the teacher that they come from;
            ``"all"`` compares with everything the teacher has, for terms to which widths do not matter.
        mask: the name of the input that tells tokens from padding, ``(N, T)``, true or 1 where there is a token; one
            that ends in ``key_padding_mask`` tells the opposite, as torch has it. ``"auto"`` takes ``attention_mask``
            where it is among the inputs. None counts everything.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    layers: Sequence[Layer]
    weight: float = 1.0
    channels: Channels = "kept"
    mask: str | None = "auto"

    def __post_init__(self) -> None:
        """Check the arguments; what is in the model is checked by the Distiller."""
        word = self.word()
        check_number(self.weight, f"{word}: weight", low=0)
        if isinstance(self.layers, str) or not isinstance(self.layers, Sequence) or not self.layers:
            example = f"[{self.layers!r}]" if isinstance(self.layers, str) and self.layers else "['layer1', 'layer2']"
            raise ConfigError(f"{word}: layers is {self.layers!r}, not a list of names of layers; give {example}")
        for at, layer in enumerate(self.layers):
            names = (layer,) if isinstance(layer, str) else layer
            if not (isinstance(names, Sequence) and 0 < len(names) < 3 and all(isinstance(n, str) for n in names)):
                raise ConfigError(f"{word}: layers[{at}] is {layer!r}; give the name of a layer, or a pair of the "
                                  "student's layer and the teacher's")  # fmt: skip
        if self.channels not in ("kept", "all"):
            raise ConfigError(f"{word}: channels is {self.channels!r}; it is 'kept' or 'all'")
        if self.mask is not None and not isinstance(self.mask, str):
            raise ConfigError(f"{word}: mask is {self.mask!r}; give the name of an input such as 'attention_mask', "
                              "'auto', or None")  # fmt: skip
        assert len(self.addresses) == len(self.layers)  # reads them, which finds names that are none

    @property
    def addresses(self) -> list[tuple[Address, Address | None]]:
        """Where to look in the student, and, where it was said, in the teacher."""
        pairs = [(layer,) if isinstance(layer, str) else tuple(layer) for layer in self.layers]
        return [(read_address(pair[0]), read_address(pair[1]) if len(pair) > 1 else None) for pair in pairs]

    def tokens(self, student: Tensor) -> tuple[int, int] | None:
        """The shape ``(N, T)`` of the mask that suits what a layer returned; None where that is not about tokens."""
        return (student.shape[0], student.shape[1]) if student.dim() == 3 else None

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, counted: Tensor | None) -> Tensor:
        """How far two tensors are apart, as a scalar that is 0 where they are equal.

        Args:
            student: what a layer of the student returned, in float32 or float64.
            teacher: what its teacher's returned, its channels those of the student (with ``channels="kept"``).
            counted: None, or bool ``(N, T)``: which tokens count.
        """


def check_number(value: Any, what: str, *, low: float, above: bool = False) -> None:
    """Refuse what is no finite number from ``low`` on, or, with ``above``, above it."""
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < low or (above and value == low):
        raise ConfigError(f"{what} is {value!r}; give a number {'above' if above else 'from'} {low:g}"
                          f"{'' if above else ' on'}")  # fmt: skip
