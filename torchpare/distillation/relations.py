"""How things lie to each other: the examples of a batch, and the tokens of an example. Widths do not matter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchpare.distillation.term import FeatureTerm, check_number
from torchpare.errors import ConfigError
from torchpare.numerics.distances import relation_angles, relation_distances, token_relation_loss

__all__ = ["Relations", "TokenRelations"]


@dataclass(frozen=True)
class Relations(FeatureTerm):
    """Distances between the examples of a batch, and angles, as what a layer returns tells them.

    Each example is taken as one vector; padding is zero in it. Memory for angles grows with the cube of the batch: set
    ``angle=0`` where batches are large. See `FeatureTerm` for the other arguments.

    Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, who take 1 to 2 for distance to angle.

    Args:
        distance: times which distances count.
        angle: times which angles count.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    distance: float = 1.0
    angle: float = 2.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        check_number(self.distance, "relations: distance", low=0)
        check_number(self.angle, "relations: angle", low=0)
        if not self.distance + self.angle:
            raise ConfigError("relations: distance and angle are both 0, so nothing is compared")

    def compare(self, student: Tensor, teacher: Tensor, counted: Tensor | None) -> Tensor:
        """The weighted sum of both."""
        rows = []
        for given in (student, teacher):
            kept = given
            if counted is not None:
                kept = given.masked_fill(~counted.reshape(*counted.shape, *[1] * (given.dim() - 2)), 0)
            rows.append(kept.flatten(1))
        total = student.new_zeros(())
        if self.distance:
            total = total + self.distance * relation_distances(rows[0], rows[1])
        if self.angle:
            total = total + self.angle * relation_angles(rows[0], rows[1])
        return total


@dataclass(frozen=True)
class TokenRelations(FeatureTerm):
    """How much tokens look like each other in the values, queries or keys ``(N, T, D)`` of an attention.

    Name the projections: ``layers=["...attention.self.value"]``. See `FeatureTerm` for the other arguments.

    Wang, Wei, Dong, Bao, Yang, Zhou, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression", NeurIPS
    2020; Wang, Bao, Huang, Dong, Wei, "MiniLMv2", 2021, who take more heads than the attention has.

    Args:
        heads: into how many parts of equal width the projection is divided; those that a pruned student has left.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    heads: int = 1

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        if isinstance(self.heads, bool) or not isinstance(self.heads, int) or self.heads < 1:
            raise ConfigError(f"token_relations: heads is {self.heads!r}; give a whole number from 1 on")

    def compare(self, student: Tensor, teacher: Tensor, counted: Tensor | None) -> Tensor:
        """The mean divergence over heads and tokens."""
        widths = student.shape[-1], teacher.shape[-1]
        if student.dim() != 3 or any(width % self.heads for width in widths):
            raise ConfigError(f"relations of tokens are made of (N, T, D) with a width for {self.heads} heads, not of "
                              f"{tuple(student.shape)} and {tuple(teacher.shape)}")  # fmt: skip
        return token_relation_loss(student, teacher, self.heads, counted)
