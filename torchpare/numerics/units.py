"""What stays or goes as a whole: a single weight, or a filter. A unit folds a weight and unfolds what is kept.

Letters: ``O`` outputs, ``I`` inputs, ``G`` groups, ``K`` kernel elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from torchpare.types import LayerMasks

__all__ = ["Element", "Filter", "Unit"]


@dataclass(frozen=True)
class Element:
    """Each weight on its own."""

    def fold(self, weight: Tensor) -> Tensor:
        """The weight itself: one unit per element."""
        return weight

    def kept(self, mask: Tensor, weight: Tensor) -> Tensor:
        """Which units an existing mask has left, of the weight's shape."""
        return mask.expand_as(weight)

    def unfold(self, keep: Tensor, weight: Tensor, bias: Tensor | None) -> LayerMasks:  # noqa: ARG002 - as Filter's
        """The masks of a layer: of the weight alone, at full size; a bias has no elements of a weight to follow."""
        return {"weight": keep.reshape(weight.shape)}


@dataclass(frozen=True)
class Filter:
    """Everything that makes one output channel: its weights and its bias.

    ``axis`` is where outputs lie in the weight: 0 for ``(O, I, K...)``, 1 for a transposed convolution's
    ``(I, O/G, K...)``, whose output ``g * O/G + j`` is column ``j`` of the rows of group ``g``.
    """

    axis: int = 0
    groups: int = 1

    def fold(self, weight: Tensor) -> Tensor:
        """The weight with its outputs along axis 0: ``(O, ...)``, each row one filter."""
        if self.axis == 0:
            return weight
        inputs, outputs, *kernel = weight.shape
        grouped = weight.reshape(self.groups, inputs // self.groups, outputs, *kernel)
        return grouped.transpose(1, 2).reshape(self.groups * outputs, inputs // self.groups, *kernel)

    def kept(self, mask: Tensor, weight: Tensor) -> Tensor:
        """Which filters an existing mask of the weight has left, ``(O,)``: those of which anything is left."""
        kept = self.fold(mask.expand_as(weight))
        return kept.flatten(1).any(dim=1) if kept.dim() > 1 else kept

    def unfold(self, keep: Tensor, weight: Tensor, bias: Tensor | None) -> LayerMasks:
        """The masks of a layer that keeps the filters ``keep`` (bool, ``(O,)``).

        Returns:
            ``weight``: a bool vector along the output axis, ``(O, 1, ...)`` or ``(1, O, 1, ...)``; of a grouped
            transposed convolution ``(I, O/G, 1, ...)``. ``bias``: ``(O,)``, if there is one.
        """
        kernel = [1] * (weight.dim() - 2)
        if self.axis == 0:
            mask = keep.reshape(-1, *[1] * (weight.dim() - 1))
        elif self.groups == 1:
            mask = keep.reshape(1, -1, *kernel)
        else:
            rows = keep.reshape(self.groups, -1).repeat_interleave(weight.shape[0] // self.groups, dim=0)
            mask = rows.reshape(*rows.shape, *kernel)
        return {"weight": mask} if bias is None else {"weight": mask, "bias": keep.clone()}


Unit: TypeAlias = Element | Filter
