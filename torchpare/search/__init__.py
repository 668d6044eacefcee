"""How much each layer should lose: searches for an objective, on shrunk candidates, in parallel, and resumable.

objective.py      what the result may cost: weights, parameters, multiply-accumulates, or measured time
variables.py      what a search may turn: one sparsity for each set of layers that share channels
trial.py          one candidate: masked, trained a little, shrunk, evaluated
executor.py       who runs trials: this process, several, or Ray
journal.py        what was found, on disk, so that a killed search goes on
run.py            the three together: what a strategy has in its hands
base.py           the pruner around a strategy
mixed_precision.py, candidates.py, frontier.py   bits for each layer, by time on a runtime
net_adapt.py, simulated_annealing.py, auto_compress.py, amc.py, sensitivity_pruner.py, budget.py    the strategies
"""

from __future__ import annotations

from torchpare.search.amc import AMCPruner
from torchpare.search.auto_compress import AutoCompressPruner
from torchpare.search.base import SearchPruner
from torchpare.search.budget import BudgetSearchPruner
from torchpare.search.executor import Executor, Processes, Serial
from torchpare.search.mixed_precision import MixedPrecisionSearch
from torchpare.search.net_adapt import NetAdaptPruner
from torchpare.search.objective import Objective
from torchpare.search.ray_executor import RayCluster
from torchpare.search.run import SearchRun, Trial
from torchpare.search.sensitivity import SensitivityAnalysis
from torchpare.search.sensitivity_pruner import SensitivityPruner
from torchpare.search.simulated_annealing import SimulatedAnnealingPruner

__all__ = [
    "AMCPruner",
    "AutoCompressPruner",
    "BudgetSearchPruner",
    "Executor",
    "MixedPrecisionSearch",
    "NetAdaptPruner",
    "Objective",
    "Processes",
    "RayCluster",
    "SearchPruner",
    "SearchRun",
    "SensitivityAnalysis",
    "SensitivityPruner",
    "Serial",
    "SimulatedAnnealingPruner",
    "Trial",
]
