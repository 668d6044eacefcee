"""How a search divides what is to go among layers: vectors of sparsities, one entry a layer, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from torchpare.numerics.selection import drop_count

__all__ = [
    "acceptance",
    "least_factor",
    "perturbed",
    "rounded",
    "scaled",
    "sorted_start",
    "tolerated_ratio",
    "toward_one",
]

Vector = NDArray[np.float64]


def sorted_start(sizes: Vector, generator: np.random.Generator) -> Vector:
    """Random sparsities in (0, 1) of which a larger layer never gets the smaller: where annealing begins.

    Liu, Ma, Xu, Wang, Tang, Ye, "AutoCompress: An Automatic DNN Structured Pruning Framework for Ultra-High Compression
    Rates", AAAI 2020: the search's prior knowledge, told in words.

    Args:
        sizes: ``(V,)`` of the layers; equal sizes take their order.
        generator: of the draw.
    """
    drawn = np.sort(generator.uniform(size=len(sizes)))
    start = np.empty(len(sizes))
    start[np.argsort(sizes, kind="stable")] = drawn
    return start


def perturbed(sparsities: Vector, width: float, generator: np.random.Generator) -> Vector:
    """Every sparsity moved by at most ``width`` up or down, and none below 0: annealing's next candidate.

    Liu, Ma, Xu, Wang, Tang, Ye, AAAI 2020, as for `sorted_start`: told in words.
    """
    return np.clip(sparsities + generator.uniform(-width, width, size=len(sparsities)), 0.0, None)


def acceptance(loss: float, temperature: float) -> float:
    """How likely annealing is to take a step that loses ``loss``: ``exp(-loss / temperature)``, and 1 for a gain.

    Metropolis, Rosenbluth, Rosenbluth, Teller, Teller, "Equation of State Calculations by Fast Computing Machines",
    1953, section 2, no numbered equation; Kirkpatrick, Gelatt, Vecchi, "Optimization by Simulated Annealing", Science
    1983.
    """
    if loss <= 0:
        return 1.0
    return math.exp(-loss / temperature) if temperature > 0 else 0.0


def scaled(direction: Vector, factor: float, most: Vector) -> Vector:
    """``factor`` times a direction, no entry above its ``most``. No paper's."""
    return np.minimum(direction * factor, most)


def toward_one(already: Vector, ratios: Vector, factor: float, most: Vector) -> Vector:
    """What is gone when layers that had lost ``already`` lose ``factor * ratios`` of the rest, none above its ``most``.

    ``s = a + (1 - a) * min(factor * r, 1)``: no paper's.

    Args:
        already: ``(V,)`` sparsities, in [0, 1).
        ratios: ``(V,)`` shares of what is left.
        factor: at least 0.
        most: ``(V,)``, no entry below ``already``.
    """
    return np.minimum(already + (1.0 - already) * np.minimum(ratios * factor, 1.0), most)


def rounded(sparsity: float, units: int, multiple: int) -> float:
    """The sparsity that keeps a multiple of a number of units, no fewer than were asked for. No paper's.

    Args:
        sparsity: in [0, 1).
        units: how many a layer has; one with fewer than ``multiple`` keeps what was asked for.
        multiple: of what: the widths that a runtime's kernels are made for.
    """
    kept = units - drop_count(units, sparsity)
    if units >= multiple:
        kept = min(math.ceil(kept / multiple) * multiple, units)
    return (units - kept) / units if multiple > 1 else sparsity


def least_factor(
    cost: Callable[[float], float], limit: float, largest: float, *, rounds: int = 30, precision: float = 1e-6
) -> float | None:
    """The smallest factor, up to ``precision`` of the ``largest``, whose cost is within a limit; None if none is.

    By bisection. No paper's.

    Args:
        cost: never rises with its argument.
        limit: the cost to come down to.
        largest: where to stop looking.
        rounds: how often to halve the interval, at most.
        precision: of the answer, relative to ``largest``.
    """
    if cost(0.0) <= limit:
        return 0.0
    if cost(largest) > limit:
        return None
    too_little, enough = 0.0, largest
    for _ in range(rounds):
        if enough - too_little <= precision * largest:
            break
        middle = (too_little + enough) / 2
        if cost(middle) <= limit:
            enough = middle
        else:
            too_little = middle
    return enough


def tolerated_ratio(scores: dict[float, float], dense: float, drop: float) -> float:
    """The largest ratio up to which every tried one loses at most ``drop`` against ``dense``; 0 if the first is over.

    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, section
    on sensitivity, no numbered equation: each layer is pruned by itself, and its threshold chosen by what the accuracy
    bears.

    Args:
        scores: by ratio; larger is better.
        dense: the score without pruning.
        drop: what may be lost, in the unit of the scores.
    """
    tolerated = 0.0
    for ratio in sorted(scores):
        if not scores[ratio] >= dense - drop:  # a NaN tolerates nothing
            break
        tolerated = ratio
    return tolerated
