"""What a model is made of and where it can be spared: statistics per layer, as values, tables, pictures and one page."""

from __future__ import annotations

from torchpare.insight.activations import ActivationRange, Activations, Channels, activations
from torchpare.insight.costs import Costs, LayerCost, layer_costs
from torchpare.insight.coupling import Coupling, coupling
from torchpare.insight.frontiers import Frontier
from torchpare.insight.rounding import LayerRounding, Rounding, rounding
from torchpare.insight.sensitivities import Sensitivity, sensitivity
from torchpare.insight.study import Insight, study
from torchpare.report.frontier_figure import FrontierPoint

__all__ = [
    "ActivationRange",
    "Activations",
    "Channels",
    "Costs",
    "Coupling",
    "Frontier",
    "FrontierPoint",
    "Insight",
    "LayerCost",
    "LayerRounding",
    "Rounding",
    "Sensitivity",
    "activations",
    "coupling",
    "layer_costs",
    "rounding",
    "sensitivity",
    "study",
]
