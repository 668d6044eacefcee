"""Pruners that look at the weights once: single weights by size, filters by norm or by distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.config import CONVOLUTIONS, FILTERED, WEIGHTED, Target
from torchpare.numerics import filter_norm, geometric_median_distance, magnitude, random_scores
from torchpare.pruning.base import Pruner
from torchpare.pruning.granularity import Allocation

__all__ = ["FPGMPruner", "FilterPruner", "L1FilterPruner", "L2FilterPruner", "LevelPruner", "RandomFilterPruner"]


class LevelPruner(Pruner):
    """Zeroes the single weights of smallest magnitude, in each selected layer its share; biases stay.

    Handles convolutions, transposed convolutions, linear, bilinear, PReLU and embedding layers. A model gets sparse
    by it, not small: nothing leaves when it is shrunk.

    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, section
    3, no numbered equation.
    """

    supported = WEIGHTED
    structured = False

    def score(self, weight: Tensor) -> Tensor:
        """The magnitude of each weight."""
        return magnitude(weight)


class FilterPruner(Pruner):
    """Base of the pruners that remove whole filters: say how important each is in ``score``, the rest is here.

    Handles convolutions and transposed convolutions, which is what ``default`` stands for, and linear layers (whose
    filters are output features) where they are named.
    """

    supported = FILTERED
    default = CONVOLUTIONS
    structured = True


class L1FilterPruner(FilterPruner):
    """Removes the filters with the smallest sum of absolute weights.

    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1, no numbered
    equation.
    """

    def score(self, weight: Tensor) -> Tensor:
        """The L1 norm of each filter."""
        return filter_norm(weight, p=1)


class L2FilterPruner(FilterPruner):
    """Removes the filters with the smallest L2 norm: as `L1FilterPruner`, whose paper tries it too."""

    def score(self, weight: Tensor) -> Tensor:
        """The L2 norm of each filter."""
        return filter_norm(weight, p=2)


class FPGMPruner(FilterPruner):
    """Removes the filters nearest to the geometric median of their layer: those that the others can stand in for.

    He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    CVPR 2019, equation 6.
    """

    def score(self, weight: Tensor) -> Tensor:
        """The sum of each filter's distances to the others."""
        return geometric_median_distance(weight)


class RandomFilterPruner(FilterPruner):
    """Removes filters by lot: the baseline that every criterion has to beat.

    Args:
        seed: of the draw, which is the same each time. All other arguments are every pruner's.
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | bool | str | None = None,
        dependency_aware: Any = False,
        dummy_input: Any = None,
        *,
        seed: int = 0,
        **allocation: Unpack[Allocation],
    ) -> None:
        super().__init__(model, config_list, optimizer, dependency_aware, dummy_input, **allocation)
        self.seed = seed

    def score_of(self, target: Target, weight: Tensor) -> Tensor:
        """Numbers that depend on the seed and the layer's name alone."""
        # Torch's generator of the CPU looks at the lower 32 bits of a seed alone.
        mixed = (crc32(target.name.encode()) + self.seed * 0x9E3779B1) % 2**32
        generator = torch.Generator().manual_seed(mixed)
        return random_scores(len(weight), generator)

    def score(self, weight: Tensor) -> Tensor:
        """Numbers that depend on the seed alone."""
        return random_scores(len(weight), torch.Generator().manual_seed(self.seed))
