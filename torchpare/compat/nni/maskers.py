"""NNI's maskers: the part of a pruner that said which weights of one layer stay, for pruners that users wrote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchpare import pruning
from torchpare.compat.nni.views import WrapperView
from torchpare.config import output_layout
from torchpare.errors import MaskError
from torchpare.numerics import Element, Filter, filter_norm, geometric_median_distance, magnitude

__all__ = [
    "MASKER_DICT",
    "FPGMPrunerMasker",
    "L1FilterPrunerMasker",
    "L2FilterPrunerMasker",
    "LevelPrunerMasker",
    "StructuredWeightMasker",
    "WeightMasker",
]


class WeightMasker(ABC):
    """Says which weights of one layer stay.

    Args:
        model: the model.
        pruner: whose masker it is.
    """

    def __init__(self, model: nn.Module, pruner: Any) -> None:
        self.model, self.pruner = model, pruner

    @abstractmethod
    def calc_mask(self, sparsity: float, wrapper: WrapperView, wrapper_idx: int | None = None) -> Any:
        """The masks of one layer: ``{"weight_mask": mask}``, perhaps with a ``"bias_mask"``."""


class StructuredWeightMasker(WeightMasker):
    """Says which filters of one layer stay: a subclass writes `get_mask`.

    Args:
        model: the model.
        pruner: whose masker it is.
        preserve_round: keep multiples of this number of filters.
    """

    def __init__(self, model: nn.Module, pruner: Any, preserve_round: int = 1) -> None:
        super().__init__(model, pruner)
        self.preserve_round = preserve_round

    @abstractmethod
    def get_mask(
        self, base_mask: dict[str, Tensor | None], weight: Tensor, num_prune: int, wrapper: WrapperView,
        wrapper_idx: int | None,
    ) -> dict[str, Tensor | None]:  # fmt: skip
        """The masks of one layer.

        Args:
            base_mask: its present masks: ``weight_mask`` and ``bias_mask``, floats of the parameters' shapes.
            weight: its masked weight, ``(O, I, ...)``.
            num_prune: how many filters go.
            wrapper: the layer's view.
            wrapper_idx: its place among the pruner's.
        """

    def calc_mask(self, sparsity: float, wrapper: WrapperView, wrapper_idx: int | None = None) -> Any:
        """The masks of one layer, by `get_mask`; its present ones where less than one filter would go."""
        weight = wrapper.weight
        if weight is None or wrapper.weight_mask is None:
            raise MaskError(f"{wrapper.name}, a {wrapper.type}, has no weight to mask")
        base = {"weight_mask": wrapper.weight_mask, "bias_mask": wrapper.bias_mask}
        total = weight.shape[0]
        count = self._rounded(total, int(total * sparsity))
        if total < 2 or count < 1:
            return base
        return self.get_mask(base, weight.detach() * base["weight_mask"], count, wrapper, wrapper_idx)

    def _rounded(self, total: int, count: int) -> int:
        step = self.preserve_round
        kept = -(-(total - count) // step) * step
        return total - (kept if kept <= total else total // step * step)


class _ByScore(WeightMasker):
    """A masker that stands for one of torchpare's criteria."""

    kind: type[pruning.Pruner]

    def calc_mask(self, sparsity: float, wrapper: WrapperView, wrapper_idx: int | None = None) -> Any:
        """The masks of one layer by its weight; what is gone already goes first."""
        del wrapper_idx
        weight = wrapper.weight
        if weight is None:
            raise MaskError(f"{wrapper.name}, a {wrapper.type}, has no weight to mask")
        unit = Filter(*output_layout(wrapper.module)) if self.kind.structured else Element()
        dense, now = weight.detach(), wrapper.weight_mask
        with torch.no_grad():
            scores = unit.gather(_SCORES[self.kind](unit.fold(dense)))
            if now is not None:
                scores = scores.masked_fill(~unit.kept(now.bool(), dense), -torch.inf)
            masks = unit.unfold(unit.keep(scores, sparsity), dense, wrapper.bias if self.kind.structured else None)
        return {f"{name}_mask": mask for name, mask in masks.items() if mask is not None}


_SCORES = {
    pruning.LevelPruner: magnitude,
    pruning.L1FilterPruner: partial(filter_norm, p=1),
    pruning.L2FilterPruner: partial(filter_norm, p=2),
    pruning.FPGMPruner: geometric_median_distance,
}


class LevelPrunerMasker(_ByScore):
    """The largest single weights stay."""

    kind = pruning.LevelPruner


class L1FilterPrunerMasker(_ByScore):
    """The filters of largest L1 norm stay."""

    kind = pruning.L1FilterPruner


class L2FilterPrunerMasker(_ByScore):
    """The filters of largest L2 norm stay."""

    kind = pruning.L2FilterPruner


class FPGMPrunerMasker(_ByScore):
    """The filters farthest from the others stay."""

    kind = pruning.FPGMPruner


MASKER_DICT = {
    "level": LevelPrunerMasker,
    "l1": L1FilterPrunerMasker,
    "l2": L2FilterPrunerMasker,
    "fpgm": FPGMPrunerMasker,
}
