"""What is computed: pure functions on tensors, each with an obvious float64 twin in the tests."""

from __future__ import annotations

from torchpare.numerics.scores import filter_norm, geometric_median_distance, magnitude
from torchpare.numerics.selection import drop_count, keep_highest, select_common
from torchpare.numerics.units import Element, Filter, Unit

__all__ = [
    "Element",
    "Filter",
    "Unit",
    "drop_count",
    "filter_norm",
    "geometric_median_distance",
    "keep_highest",
    "magnitude",
    "select_common",
]
