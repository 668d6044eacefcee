"""Where a model looks: maps over the places of a picture, and scores between tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchpare.distillation.term import FeatureTerm
from torchpare.errors import ConfigError
from torchpare.numerics.distances import attention_score_error, spatial_attention_error

__all__ = ["AttentionMaps", "AttentionScores"]


@dataclass(frozen=True)
class AttentionMaps(FeatureTerm):
    """How strongly each place of a picture speaks, over all channels: activations ``(N, C, ...)`` of a convolution.

    The map of a picture has length 1, and the loss is the mean squared difference. The authors weigh it by 500, for
    wide nets trained long; on small pruned ones begin with 1. See `FeatureTerm` for the arguments; with
    ``channels="all"`` the student learns the map of all the teacher's channels, those it has lost too, as in the paper.

    Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def tokens(self, student: Tensor) -> None:
        """Places of a picture are no tokens."""
        del student

    def compare(self, student: Tensor, teacher: Tensor, counted: Tensor | None) -> Tensor:
        """The mean squared difference of maps."""
        if student.dim() < 3 or student.shape[2:] != teacher.shape[2:]:
            raise ConfigError(f"maps over places are made of (N, C, ...) with equal places, not of "
                              f"{tuple(student.shape)} and {tuple(teacher.shape)}")  # fmt: skip
        return spatial_attention_error(student, teacher, counted)


@dataclass(frozen=True)
class AttentionScores(FeatureTerm):
    """What tokens look at, ``(N, heads, T, S)``: scores before the softmax, or probabilities after it.

    Pruned heads are compared with those of the teacher that they were. Pairs of tokens count of which none is padding.
    See `FeatureTerm` for the arguments; ``channels`` must be ``"kept"``. In transformers the attention must be made
    to return its probabilities: ``attn_implementation="eager"`` and ``layers=["...attention.self[1]"]``.

    Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding", EMNLP 2020.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if self.channels != "kept":
            raise ConfigError("attention_scores: channels is 'all', but heads are compared one by one; leave it out")

    def tokens(self, student: Tensor) -> tuple[int, int] | None:
        """Those that are looked at."""
        return (student.shape[0], student.shape[3]) if student.dim() == 4 else None

    def compare(self, student: Tensor, teacher: Tensor, counted: Tensor | None) -> Tensor:
        """The mean squared difference over pairs of tokens."""
        if student.dim() != 4:
            raise ConfigError(f"scores of attention are (N, heads, T, S), not {tuple(student.shape)}")
        if counted is not None:  # tokens that look are the same ones, but in an attention across sequences
            asks = counted if counted.shape[1] == student.shape[2] else counted.new_ones((1, 1))
            counted = asks[:, None, :, None] & counted[:, None, None, :]
        return attention_score_error(student, teacher, counted)
