"""What to remove: pruners mask a model, which then trains and evaluates as if the pruned parts were gone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchpare.pruning.activations import ActivationAPoZRankFilterPruner, ActivationMeanRankFilterPruner
from torchpare.pruning.admm import ADMMPruner
from torchpare.pruning.base import Pruner
from torchpare.pruning.data_driven import DataDrivenPruner
from torchpare.pruning.gradual import AGPPruner, GradualPruner, LinearPruner
from torchpare.pruning.heads import TransformerHeadPruner
from torchpare.pruning.lottery_ticket import LotteryTicketPruner
from torchpare.pruning.movement import MovementPruner
from torchpare.pruning.one_shot import (
    FilterPruner,
    FPGMPruner,
    L1FilterPruner,
    L2FilterPruner,
    LevelPruner,
    RandomFilterPruner,
)
from torchpare.pruning.second_order import HessianFilterPruner
from torchpare.pruning.slim import SlimPruner
from torchpare.pruning.taylor import TaylorFOActivationFilterPruner, TaylorFOWeightFilterPruner

if TYPE_CHECKING:
    from torchpare.search import (
        AMCPruner,
        AutoCompressPruner,
        BudgetSearchPruner,
        NetAdaptPruner,
        SensitivityPruner,
        SimulatedAnnealingPruner,
    )

# Names of later versions of the older toolkit.
L1NormPruner = L1FilterPruner
L2NormPruner = L2FilterPruner
ActivationAPoZRankPruner = ActivationAPoZRankFilterPruner
ActivationMeanRankPruner = ActivationMeanRankFilterPruner
TaylorFOWeightPruner = TaylorFOWeightFilterPruner
TaylorPruner = TaylorFOWeightFilterPruner

__all__ = [
    "ADMMPruner",
    "AGPPruner",
    "AMCPruner",
    "ActivationAPoZRankFilterPruner",
    "ActivationAPoZRankPruner",
    "ActivationMeanRankFilterPruner",
    "ActivationMeanRankPruner",
    "AutoCompressPruner",
    "BudgetSearchPruner",
    "DataDrivenPruner",
    "FPGMPruner",
    "FilterPruner",
    "GradualPruner",
    "HessianFilterPruner",
    "L1FilterPruner",
    "L1NormPruner",
    "L2FilterPruner",
    "L2NormPruner",
    "LevelPruner",
    "LinearPruner",
    "LotteryTicketPruner",
    "MovementPruner",
    "NetAdaptPruner",
    "Pruner",
    "RandomFilterPruner",
    "SensitivityPruner",
    "SimulatedAnnealingPruner",
    "SlimPruner",
    "TaylorFOActivationFilterPruner",
    "TaylorFOWeightFilterPruner",
    "TaylorFOWeightPruner",
    "TaylorPruner",
    "TransformerHeadPruner",
]

_SEARCHES = {
    "AMCPruner",
    "AutoCompressPruner",
    "BudgetSearchPruner",
    "NetAdaptPruner",
    "SensitivityPruner",
    "SimulatedAnnealingPruner",
}


def __getattr__(name: str) -> Any:
    """Pruners that search shrink their candidates, so they live above this floor; they are handed on from there."""
    if name not in _SEARCHES:
        raise AttributeError(f"module 'torchpare.pruning' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module("torchpare.search"), name)
