"""What layers return, entry by entry: hidden states of tokens, feature maps of pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchpare.distillation.term import FeatureTerm
from torchpare.errors import ConfigError
from torchpare.numerics.distances import mean_squared_error

__all__ = ["HiddenStates"]


@dataclass(frozen=True)
class HiddenStates(FeatureTerm):
    """The mean squared difference of what layers return: hidden states of tokens, feature maps of pictures.

    A pruned student's channels are compared with those of the teacher that they come from, so no layer is needed that
    adapts one width to another. See `FeatureTerm` for the arguments; ``channels`` must be ``"kept"``.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015; Jiao et al.,
    "TinyBERT: Distilling BERT for Natural Language Understanding", EMNLP 2020.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if self.channels != "kept":
            raise ConfigError("hidden_states: channels is 'all', but entries are compared one by one; leave it out")

    def compare(self, student: Tensor, teacher: Tensor, counted: Tensor | None) -> Tensor:
        """The mean squared error over entries of tokens that count."""
        if counted is not None:
            counted = counted.reshape(*counted.shape, *[1] * (student.dim() - 2))
        return mean_squared_error(student, teacher, counted)
