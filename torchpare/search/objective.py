"""What a search has to come down to: a share of the weights, parameters, multiply-accumulates, or seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from torch import nn

from torchpare.errors import ConfigError
from torchpare.search.fingerprint import of_code
from torchpare.search.latency import RUNTIMES

__all__ = ["Metric", "Objective", "Runtime", "objective_of"]

Metric = Literal["sparsity", "params", "macs", "latency"]

Runtime: TypeAlias = str | Callable[[nn.Module, Any], Callable[[], object]]
"""``"pytorch"``, ``"onnxruntime"``, or a function of your own: it prepares ``(model, example)`` for where the model
will live, and returns what runs it once, which is then timed."""


@dataclass(frozen=True)
class Objective:
    """What the pruned model may cost at most.

    Args:
        metric: ``"sparsity"``: the weights of the selected layers, counted as if each layer lost its own units alone;
            ``"params"``: all parameters of the shrunk model; ``"macs"``: its multiply-accumulates on the example;
            ``"latency"``: its measured time for one run on the example, on ``runtime``.
        limit: in the metric's own unit (a share of the weights in (0, 1), parameters, multiply-accumulates, seconds).
            Without it, the ``sparsity`` of the first entry of the ``config_list`` is the share of the dense model's
            cost that has to go.
        runtime: where latency is measured: ``"pytorch"``, ``"onnxruntime"``, or a function ``(model, example) -> run``
            of your own, of which ``run()`` is timed.
        runs: how many timed runs a latency is the median of, at least 2. The dense model takes turns with each
            candidate, and what is believed is their ratio: other work on the machine slows both.

    Raises:
        ConfigError: a value cannot be used.
    """

    metric: Metric = "sparsity"
    limit: float | None = None
    runtime: Runtime = "pytorch"
    runs: int = 20

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise ConfigError(f"objective: the metric is {self.metric!r}; it is one of "
                              f"{', '.join(map(repr, get_args(Metric)))}")  # fmt: skip
        limit = self.limit
        if limit is not None and not (isinstance(limit, int | float) and math.isfinite(limit) and limit > 0):
            raise ConfigError(f"objective: limit is {limit!r}; it is a number above 0")
        if limit is not None and self.metric == "sparsity" and limit >= 1:
            raise ConfigError(f"objective: limit is {limit!r}; of 'sparsity' it is the share of the weights that may "
                              "stay, below 1")  # fmt: skip
        if not callable(self.runtime) and self.runtime not in RUNTIMES:
            raise ConfigError(f"objective: runtime is {self.runtime!r}; it is one of {', '.join(map(repr, RUNTIMES))}, "
                              "or a function (model, example) -> run")  # fmt: skip
        if not isinstance(self.runs, int) or self.runs < 2:
            raise ConfigError(f"objective: runs is {self.runs!r}; a median needs at least 2")

    def limit_for(self, dense: float, share: float) -> float:
        """The cost to come down to, from the dense model's cost and the share of it that has to go."""
        return dense * (1.0 - share) if self.limit is None else float(self.limit)

    def described(self) -> dict[str, Any]:
        """As JSON knows it."""
        runtime = self.runtime if isinstance(self.runtime, str) else of_code(self.runtime)
        return {"metric": self.metric, "limit": self.limit, "runtime": runtime, "runs": self.runs}


def objective_of(given: Objective | Metric | None) -> Objective:
    """An objective from what a constructor was given: one, or the name of a metric, or nothing.

    Raises:
        ConfigError: it is neither.
    """
    if given is None:
        return Objective()
    if isinstance(given, Objective):
        return given
    if isinstance(given, str):
        return Objective(given)
    raise ConfigError(f"objective is a {type(given).__name__}; it is one of {', '.join(map(repr, get_args(Metric)))}, "
                      "or an Objective")  # fmt: skip
