"""What to remove: pruners mask a model, which then trains and evaluates as if the pruned parts were gone."""

from __future__ import annotations

from torchpare.pruning.admm import ADMMPruner
from torchpare.pruning.base import Pruner
from torchpare.pruning.data_driven import (
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
    DataDrivenPruner,
    TaylorFOWeightFilterPruner,
)
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
from torchpare.pruning.slim import SlimPruner

# Names of later versions of the older toolkit.
L1NormPruner = L1FilterPruner
L2NormPruner = L2FilterPruner
ActivationAPoZRankPruner = ActivationAPoZRankFilterPruner
ActivationMeanRankPruner = ActivationMeanRankFilterPruner
TaylorFOWeightPruner = TaylorFOWeightFilterPruner

__all__ = [
    "ADMMPruner",
    "AGPPruner",
    "ActivationAPoZRankFilterPruner",
    "ActivationAPoZRankPruner",
    "ActivationMeanRankFilterPruner",
    "ActivationMeanRankPruner",
    "DataDrivenPruner",
    "FPGMPruner",
    "FilterPruner",
    "GradualPruner",
    "L1FilterPruner",
    "L1NormPruner",
    "L2FilterPruner",
    "L2NormPruner",
    "LevelPruner",
    "LinearPruner",
    "LotteryTicketPruner",
    "MovementPruner",
    "Pruner",
    "RandomFilterPruner",
    "SlimPruner",
    "TaylorFOWeightFilterPruner",
    "TaylorFOWeightPruner",
    "TransformerHeadPruner",
]
