"""What processes that train together agree on, so that all of them keep one grid.

Every one of them takes part in every exchange, whether it has values of its own or not: one that stayed away would let
the others wait for ever.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed

from torchpare.numerics.ranges import Range

__all__ = ["many_ranks", "mean_over_ranks", "range_over_ranks", "sum_over_ranks"]


def many_ranks() -> bool:
    """Whether there are other processes to agree with."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def range_over_ranks(low: Tensor, high: Tensor) -> Range:
    """The range over all processes; one that has no values gives ``inf, -inf``. NaN comes back as infinite ends."""
    if not many_ranks():
        return low, high
    # The larger of a number and NaN depends on which comes first; infinities reach everybody.
    both = torch.stack([-low, high]).nan_to_num(math.inf, math.inf, -math.inf)
    distributed.all_reduce(both, distributed.ReduceOp.MAX)
    return -both[0], both[1]


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if many_ranks():
        distributed.all_reduce(value)
    return value


def mean_over_ranks(value: Tensor | None, like: Tensor) -> Tensor:
    """The mean over the processes that have a value; ``like`` has its shape where there is none here."""
    if value is None:
        return _mean(torch.zeros_like(like), 0.0)
    return _mean(value, 1.0) if many_ranks() else value


def _mean(value: Tensor, count: float) -> Tensor:
    total = sum_over_ranks(torch.cat([value.flatten(), value.new_full((1,), count)]))
    return (total[:-1] / total[-1]).reshape(value.shape)
