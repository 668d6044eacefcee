"""What AMC's agent is shown of a layer, what it may say of it, and what that is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from torchpare.numerics import drop_count
from torchpare.numerics.allocation import Vector
from torchpare.search.run import SearchRun, Trial

__all__ = ["Bounds", "Walk", "features"]


@dataclass(frozen=True)
class Bounds:
    """What a layer may keep."""

    least: float
    most: float
    multiple: int
    """Of how many units, where a layer has as many."""


class Walk:
    """Answers the agent's world from the search, and remembers the best episode.

    Args:
        run: the search.
        bounds: what the agent may say.
        reward: of a gain and a cost.
        episodes: how many there will be.
    """

    def __init__(self, run: SearchRun, bounds: Bounds, reward: Callable[[float, float], float], episodes: int) -> None:
        self._run, self._bounds, self._reward, self._episodes, self._episode = run, bounds, reward, episodes, 0
        self.best: Trial | None = None
        self._reward_of_best = -math.inf

    def progress(self, taken: list[float]) -> tuple[float, float]:
        """The share of the cost that is gone, and the share that the layers to come can still give."""
        dense = self._run.dense.cost
        now = self._run.cost(self._vector(taken, rest=self._run.zeros))
        least = self._run.cost(self._vector(taken, rest=self._run.most))
        return 1 - now / dense, (now - least) / dense

    def allowed(self, taken: list[float], keep: float) -> float:
        """The share that the next layer keeps: as said, but within the bounds, and so that the budget can be met."""
        at = len(taken)
        keep = min(max(keep, self._bounds.least), self._bounds.most)
        variable = self._run.variables[at]
        least = variable.units - drop_count(variable.units, self._run.most[at])
        kept = max(least, self._rounded(variable.units, keep))
        while kept > least:
            share = kept / variable.units
            if self._run.cost(self._vector([*taken, share], rest=self._run.most)) <= self._run.limit:
                break
            kept = max(least, kept - (self._bounds.multiple if kept > self._bounds.multiple else 1))
        return kept / variable.units

    def reward(self, taken: list[float]) -> float:
        """Try what the agent said of all layers."""
        self._episode += 1
        vector = self._vector(taken, rest=self._run.zeros)
        (trial,) = self._run.try_all("episodes", [vector], places=[self._episode], expected=self._episodes)
        reward = self._reward(trial.gain, trial.cost) if math.isfinite(trial.gain) else -1.0
        if self.best is None or reward > self._reward_of_best:
            if self.best is not None:
                self._run.journal.drop_state(self.best.key)
            self.best, self._reward_of_best = trial, reward
        else:
            self._run.journal.drop_state(trial.key)
        return reward

    def _vector(self, taken: list[float], rest: Vector) -> Vector:
        vector = np.array(rest, dtype=np.float64)
        vector[: len(taken)] = [1.0 - keep for keep in taken]
        return np.minimum(vector, self._run.most)

    def _rounded(self, units: int, keep: float) -> int:
        step = self._bounds.multiple
        kept = max(1, math.ceil(units * keep - 1e-9))
        return min(math.ceil(kept / step) * step, units // step * step) if units >= step else kept


def features(run: SearchRun, layers: Mapping[str, nn.Module]) -> NDArray[np.float64]:
    """``(V, F)`` of the variables' first layers, each column from 0 to 1."""
    rows = []
    for at, variable in enumerate(run.variables):
        layer: Any = layers[variable.name]
        weight = layer._parameters["weight"]  # noqa: SLF001 - its shape
        kernel = getattr(layer, "kernel_size", (1,))
        stride = getattr(layer, "stride", (1,))
        alone = run.zeros
        alone[at] = run.most[at]
        rows.append([
            at, float(isinstance(layer, nn.Linear)), weight.shape[0], weight.shape[1] if weight.dim() > 1 else 1,
            float(np.prod(kernel)), float(np.prod(stride)), variable.weights, run.dense.cost - run.cost(alone),
        ])  # fmt: skip
    table = np.array(rows, dtype=np.float64)
    span = np.ptp(table, axis=0)
    return (table - table.min(axis=0)) / np.where(span > 0, span, 1.0)
