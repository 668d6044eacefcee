"""What is computed: pure functions on tensors, each with an obvious float64 twin in the tests."""

from __future__ import annotations

from torchpare.numerics.affine import Grid, check_finite, dequantize, fake_quantize, quantize, scale_and_zero_point
from torchpare.numerics.evidence import activation_sums, first_order, first_order_of_activations, second_order
from torchpare.numerics.schedules import SCHEDULES, Schedule, at_epoch, compound, cubic, linear, with_warm_up
from torchpare.numerics.scores import filter_norm, geometric_median_distance, magnitude, random_scores
from torchpare.numerics.selection import Reduction, drop_count, keep_highest, select_common, select_global
from torchpare.numerics.units import Bank, Block, Element, Filter, Pattern, Unit

__all__ = [
    "SCHEDULES",
    "Bank",
    "Block",
    "Element",
    "Filter",
    "Grid",
    "Pattern",
    "Reduction",
    "Schedule",
    "Unit",
    "activation_sums",
    "at_epoch",
    "check_finite",
    "compound",
    "cubic",
    "dequantize",
    "drop_count",
    "fake_quantize",
    "filter_norm",
    "first_order",
    "first_order_of_activations",
    "geometric_median_distance",
    "keep_highest",
    "linear",
    "magnitude",
    "quantize",
    "random_scores",
    "scale_and_zero_point",
    "second_order",
    "select_common",
    "select_global",
    "with_warm_up",
]
