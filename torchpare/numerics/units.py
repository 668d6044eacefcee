"""What stays or goes as a whole: a weight, a block, a filter. A unit folds a weight and unfolds what is kept.

Letters: ``O`` outputs, ``I`` inputs, ``G`` groups, ``K`` kernel elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from torchpare.numerics.selection import block_sums, drop_count, keep_highest, keep_of_blocks, keep_of_runs
from torchpare.types import LayerMasks

__all__ = ["Bank", "Block", "Element", "Filter", "Pattern", "Unit"]


@dataclass(frozen=True)
class Element:
    """Each weight on its own."""

    def fold(self, weight: Tensor) -> Tensor:
        """The weight itself: one unit per element."""
        return weight

    def kept(self, mask: Tensor, weight: Tensor) -> Tensor:
        """Which units an existing mask has left, of the weight's shape."""
        return mask.expand_as(weight)

    def gather(self, scores: Tensor) -> Tensor:
        """The scores of the units, from those of the weights: the same."""
        return scores

    def keep(self, scores: Tensor, sparsity: float) -> Tensor:
        """The highest scores of the layer."""
        return keep_highest(scores, drop_count(scores.numel(), sparsity))

    def unfold(self, keep: Tensor, weight: Tensor, bias: Tensor | None) -> LayerMasks:  # noqa: ARG002 - as Filter's
        """The masks of a layer: of the weight alone, at full size; a bias has no elements of a weight to follow."""
        return {"weight": keep.reshape(weight.shape)}


@dataclass(frozen=True)
class Pattern(Element):
    """Each weight on its own, but ``kept`` of every ``of`` neighbours along the input axis, which hardware can use.

    Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, section 3 (2:4). A row whose length is no multiple
    ends with a shorter run, which keeps as many, if it has them.
    """

    left: int = 2
    of: int = 4
    axis: int = 1
    """Where inputs lie in the weight: 0 for a transposed convolution's ``(I, O/G, K...)``."""

    def keep(self, scores: Tensor, sparsity: float) -> Tensor:  # noqa: ARG002 - the pattern says how many
        """The highest scores of each run."""
        return keep_of_runs(scores, self.left, self.of, axis=min(self.axis, scores.dim() - 1))


@dataclass(frozen=True)
class Bank(Element):
    """Each weight on its own, but equally many in every block of the weight; ``sizes`` lie along its last axes.

    Cao et al., "Efficient and Effective Sparse LSTM on FPGA with Bank-Balanced Sparsity", FPGA 2019, section 3.
    """

    sizes: tuple[int, ...] = ()

    def keep(self, scores: Tensor, sparsity: float) -> Tensor:
        """The highest scores of each block."""
        sizes = (*scores.shape[: max(0, scores.dim() - len(self.sizes))], *self.sizes)[-scores.dim() :]
        return keep_of_blocks(scores, sizes, sparsity)


@dataclass(frozen=True)
class Block:
    """Blocks of weights; ``sizes`` lie along the weight's first axes, all other axes are whole.

    Narang, Undersander, Diamos, "Block-Sparse Recurrent Neural Networks", 2017, section 2.
    """

    sizes: tuple[int, ...]

    def fold(self, weight: Tensor) -> Tensor:
        """The weight itself: scores are those of single weights, until they are gathered."""
        return weight

    def gather(self, scores: Tensor) -> Tensor:
        """The mean score of each block: ``(O / sizes[0], I / sizes[1], ..., 1)``, rounded up."""
        sizes = self._sizes(scores)
        total = block_sums(scores.double(), sizes)
        count = block_sums(torch.ones_like(scores, dtype=torch.float64), sizes)
        return total / count

    def kept(self, mask: Tensor, weight: Tensor) -> Tensor:
        """The blocks of which an existing mask leaves anything."""
        return block_sums(mask.expand_as(weight).double(), self._sizes(weight)) > 0

    def keep(self, scores: Tensor, sparsity: float) -> Tensor:
        """The highest scores of the layer."""
        return keep_highest(scores, drop_count(scores.numel(), sparsity))

    def unfold(self, keep: Tensor, weight: Tensor, bias: Tensor | None) -> LayerMasks:  # noqa: ARG002 - as Filter's
        """The mask of the weight, at full size."""
        mask = keep
        for axis, size in enumerate(self._sizes(weight)):
            mask = mask.repeat_interleave(size, dim=axis).narrow(axis, 0, weight.shape[axis])
        return {"weight": mask}

    def _sizes(self, weight: Tensor) -> tuple[int, ...]:
        return (*self.sizes[: weight.dim()], *weight.shape[len(self.sizes) :])


@dataclass(frozen=True)
class Filter:
    """Everything that makes one output channel: its weights and its bias.

    ``axis`` is where outputs lie in the weight: 0 for ``(O, I, K...)``, 1 for a transposed convolution's
    ``(I, O/G, K...)``, whose output ``g * O/G + j`` is column ``j`` of the rows of group ``g``.
    """

    axis: int = 0
    groups: int = 1
    balanced: int = 1
    """Into how many equal runs of filters the layer falls of which each loses as many."""

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

    def gather(self, scores: Tensor) -> Tensor:
        """The scores of the units: the same."""
        return scores

    def keep(self, scores: Tensor, sparsity: float) -> Tensor:
        """The highest scores of the layer; of each of its groups, if these are to be balanced."""
        share = (len(scores) // self.balanced,) if self.balanced > 1 else tuple(scores.shape)
        return keep_of_blocks(scores, share, sparsity)

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


Unit: TypeAlias = Element | Block | Filter
