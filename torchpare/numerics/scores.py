"""How important each unit is: pure functions from a weight to scores; larger stays.

Filters come with their output axis first, ``(O, ...)``; see :meth:`torchpare.numerics.units.Filter.fold`. Sums run in
float64 where the device has it, so that a score does not depend on the order in which a kernel adds.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["filter_norm", "geometric_median_distance", "magnitude", "random_scores", "rows"]


def magnitude(weight: Tensor) -> Tensor:
    """Size of each single weight, of the weight's own shape.

    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
    section 3; the paper numbers no equation for it: ``|w|`` is held against a threshold.
    """
    return weight.detach().abs()


def filter_norm(weight: Tensor, *, p: float) -> Tensor:
    """Size of each filter: the p-norm over everything but the output axis, ``(O, ...) -> (O,)``.

    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1, step 1, no
    numbered equation: ``s_j = sum of |F_ij|`` (p = 1).
    """
    return torch.linalg.vector_norm(rows(weight), ord=p, dim=1)


def geometric_median_distance(weight: Tensor) -> Tensor:
    """How far each filter lies from all the others: the sum of its L2 distances to them, ``(O, ...) -> (O,)``.

    The smallest sum is nearest to the geometric median, and so the one that the others can best stand in for.

    He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    CVPR 2019, equation 6: ``sum over j' of ||x - F_ij'||_2``, in place of the median itself (equations 2 to 4).
    """
    filters = rows(weight)
    # Distances through a matrix product lose digits where filters are alike; in float64 there are enough left.
    return torch.cdist(filters, filters).sum(dim=1)


def random_scores(units: int, generator: torch.Generator) -> Tensor:
    """Numbers drawn evenly from [0, 1), one for each unit: the baseline to beat. No paper's."""
    return torch.rand(units, generator=generator, dtype=torch.float64)


def rows(weight: Tensor) -> Tensor:
    """A weight as one row of numbers for each filter, ``(O, ...) -> (O, M)``, in the type that sums run in.

    A complex number is as large as its absolute value.
    """
    weight = weight.detach().abs() if weight.is_complex() else weight.detach()
    flat = weight.flatten(1) if weight.dim() > 1 else weight.unsqueeze(1)
    return flat.float() if weight.device.type == "mps" else flat.double()
