"""The obvious quantizer: one value at a time, in Python's own numbers and whole integers."""

from __future__ import annotations

import math

import numpy as np


def limits(bits, signed, narrow):
    lowest = -(2 ** (bits - 1)) if signed else 0
    return lowest + (1 if narrow else 0), lowest + 2**bits - 1


def code(x, scale, zero_point, qmin, qmax):
    """The integer of one float32 value: float32 has one division, and Python's `round` is half to even."""
    with np.errstate(over="ignore"):
        ratio = float(np.float32(x) / np.float32(scale))
    if math.isinf(ratio):
        return qmax if ratio > 0 else qmin
    return min(max(round(ratio) + zero_point, qmin), qmax)


def value(q, scale, zero_point):
    with np.errstate(over="ignore"):
        return float(np.float32(q - zero_point) * np.float32(scale))
