"""What a model is made of and where it can be spared: statistics by layer, as values, tables, charts and one page."""

from __future__ import annotations

from torchpare.insight.activation_ranges import ActivationRange, Activations, Channels, activations
from torchpare.insight.costs import Costs, LayerCost, layer_costs
from torchpare.insight.couplings import Coupling, coupling
from torchpare.insight.frontiers import Frontier
from torchpare.insight.outcome import Insight
from torchpare.insight.rounding_errors import LayerRounding, Rounding, rounding
from torchpare.insight.sensitivities import Sensitivity, sensitivity
from torchpare.insight.studying import study
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
