"""What to remove: pruners mask a model, which then trains and evaluates as if the pruned parts were gone."""

from __future__ import annotations

from torchpare.pruning.base import Pruner
from torchpare.pruning.one_shot import FilterPruner, FPGMPruner, L1FilterPruner, L2FilterPruner, LevelPruner

L1NormPruner = L1FilterPruner
L2NormPruner = L2FilterPruner

__all__ = [
    "FPGMPruner",
    "FilterPruner",
    "L1FilterPruner",
    "L1NormPruner",
    "L2FilterPruner",
    "L2NormPruner",
    "LevelPruner",
    "Pruner",
]
