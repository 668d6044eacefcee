"""Budgets: ``accuracy >= 0.97``, ``accuracy >= dense - 0.01``, ``parameters <= 0.5x``, ``latency <= 5 ms``.

A budget is a metric, a bound, and a number: plain, in a unit, as a multiple of the dense model's (``0.5x``), or as far
from it as is said (``dense - 0.01``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["Budget", "Verdict", "read_budget"]

_UNITS = {
    "": 1.0, "%": 0.01,
    "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6,
    "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30,
    "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9,
}  # fmt: skip
_NUMBER = r"(?P<value>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_PLAIN = re.compile(rf"^\s*(?P<metric>[A-Za-z_]\w*)\s*(?P<bound>>=|<=)\s*{_NUMBER}\s*(?P<unit>[a-zA-Zµ%]*)\s*$")
_DENSE = re.compile(rf"^\s*(?P<metric>[A-Za-z_]\w*)\s*(?P<bound>>=|<=)\s*dense\s*(?:(?P<sign>[-+])\s*{_NUMBER}\s*"
                    r"(?P<unit>[a-zA-Zµ%]*))?\s*$")  # fmt: skip


class Budget(BaseModel):
    """What a metric must keep to."""

    model_config = ConfigDict(frozen=True)

    text: str
    metric: str
    bound: Literal[">=", "<="]
    value: float
    of: Literal["itself", "times dense", "beside dense"] = "itself"

    @property
    def is_share(self) -> bool:
        """Whether it was said in percent."""
        return "%" in self.text

    def limit(self, dense: Mapping[str, float]) -> float:
        """The number that the metric is compared with; NaN where the dense model's is not known."""
        if self.of == "itself":
            return self.value
        known = dense.get(self.metric, math.nan)
        return known * self.value if self.of == "times dense" else known + self.value

    def judge(self, metrics: Mapping[str, float], dense: Mapping[str, float]) -> Verdict:
        """Whether it holds; what is not known, or is NaN, does not.

        Args:
            metrics: of the stage.
            dense: of the model before all stages.
        """
        value, limit = metrics.get(self.metric, math.nan), self.limit(dense)
        if self.is_share and max(abs(value), abs(dense.get(self.metric, 0.0))) > 1:
            limit = math.nan  # a hundredth of something that is no share of 1 could be anything
        return Verdict(budget=self.text, metric=self.metric, value=value, limit=limit,
                       holds=value >= limit if self.bound == ">=" else value <= limit,
                       known=tuple(sorted(metrics)))  # fmt: skip


class Verdict(BaseModel):
    """A budget, and what came of it."""

    model_config = ConfigDict(frozen=True)

    budget: str
    metric: str
    value: float
    limit: float
    holds: bool
    known: tuple[str, ...]

    def __str__(self) -> str:
        if math.isnan(self.value) and self.metric in self.known:
            return f"{self.budget}: missed, {self.metric} is not a number"
        if math.isnan(self.value):
            return f"{self.budget}: there is no {self.metric} here; known are {', '.join(self.known) or 'none'}"
        if math.isnan(self.limit) and "%" in self.budget:
            return (f"{self.budget}: {self.metric} is {self.value:.6g}, no share of 1, so that % says nothing: give a "
                    "plain number, or a multiple such as 0.99x")  # fmt: skip
        if math.isnan(self.limit):
            return f"{self.budget}: the dense model's {self.metric} is not known"
        plain = _PLAIN.match(self.budget)
        said = f"{self.budget}: {'met' if self.holds else 'missed'}, {self.metric} is {self._say(self.value)}"
        return said if plain and plain["unit"] != "x" else f"{said} and the limit {self._say(self.limit)}"

    def _say(self, value: float) -> str:
        """A number in the unit that the budget is said in."""
        found = _PLAIN.match(self.budget) or _DENSE.match(self.budget)
        unit = (found["unit"] or "") if found else ""
        unit = unit if unit in _UNITS else ""
        scaled = value / _UNITS[unit]
        large = 1e5 <= abs(scaled) < 1e15
        return (f"{scaled:,.0f}" if large else f"{scaled:.6g}") + (f" {unit}" if unit else "")


def read_budget(text: Any) -> Any:
    """A budget out of its words; what is one already, or the dict of one, stays as it is.

    Raises:
        ValueError: it cannot be read.
    """
    if not isinstance(text, str):
        return text
    if (found := _DENSE.match(text)) is not None:
        sign = -1.0 if found["sign"] == "-" else 1.0
        value = sign * float(found["value"] or 0) * _unit(text, found["unit"] or "")
        return {"text": text.strip(), "metric": found["metric"], "bound": found["bound"], "value": value,
                "of": "beside dense"}  # fmt: skip
    if (found := _PLAIN.match(text)) is not None:
        plain = {"text": text.strip(), "metric": found["metric"], "bound": found["bound"]}
        if found["unit"] == "x":
            return {**plain, "value": float(found["value"]), "of": "times dense"}
        return {**plain, "value": float(found["value"]) * _unit(text, found["unit"])}
    examples = "'accuracy >= 0.97', 'accuracy >= dense - 0.01', 'parameters <= 0.5x' or 'latency <= 5 ms'"
    raise ValueError(f"the budget {text!r} is not understood; say a metric, >= or <=, and a number, such as {examples}")


def _unit(text: str, unit: str) -> float:
    if unit not in _UNITS:
        raise ValueError(f"the budget {text!r} has the unknown unit {unit!r}; known are x, "
                         f"{', '.join(filter(None, _UNITS))}")  # fmt: skip
    return _UNITS[unit]
