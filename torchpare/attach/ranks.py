"""What processes that train together agree on, so that all of them keep one grid and one mask.

Every one of them takes part in every exchange, whether it has values of its own or not: one that stayed away would let
the others wait for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from torchpare.numerics.ranges import Range

__all__ = [
    "averages_over_ranks",
    "fewest_over_ranks",
    "many_ranks",
    "mean_over_ranks",
    "range_over_ranks",
    "ranks",
    "sum_over_ranks",
    "terms_over_ranks",
]

_TERMS = 4
"""Of at most so many terms sums are exchanged together."""


def ranks() -> int:
    """How many processes train together; 1 where this one is alone."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def many_ranks() -> bool:
    """Whether there are other processes to agree with."""
    return ranks() > 1


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


def averages_over_ranks(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each value over all processes, as DDP averages gradients: where there is none, it counts as zero.

    Args:
        values: by name, what this process has; not every one need have every name.
        like: by name, tensors of the same shapes and types, the same names in all processes.

    Returns:
        the names that any process has a value for. Alone, ``values`` itself.
    """
    if not many_ranks():
        return dict(values)
    names = list(like)
    first = next(iter(like.values()), torch.empty(0))
    known = sum_over_ranks(torch.tensor([float(name in values) for name in names], device=first.device)).tolist()
    found = {}
    for name, count in zip(names, known, strict=True):
        if count:
            own = values[name].clone() if name in values else torch.zeros_like(like[name])
            found[name] = sum_over_ranks(own) / ranks()
    return found


def terms_over_ranks(
    terms: tuple[Tensor | int, ...] | None, device: torch.device | None = None
) -> tuple[Tensor | int, ...] | None:
    """Sums of several terms, each a vector or a number, added up over all processes; None where none of them has any.

    Args:
        terms: what this process has; None where it has nothing.
        device: where to exchange.

    Returns:
        vectors and numbers in float64, which holds counts up to 2**53 exactly. Alone, ``terms`` itself.
    """
    if not many_ranks():
        return terms
    own = [torch.as_tensor(term, device=device).double().flatten() for term in terms or ()]
    sizes = torch.tensor([len(term) for term in own] + [0] * (_TERMS - len(own)), device=device)
    distributed.all_reduce(sizes, distributed.ReduceOp.MAX)
    if not bool(sizes.any()):
        return None
    total = sum_over_ranks(torch.cat(own) if own else torch.zeros(int(sizes.sum()), dtype=torch.float64, device=device))
    return total.split([size for size in sizes.tolist() if size])


def fewest_over_ranks(count: int, device: torch.device | None = None) -> int:
    """The smallest of the counts of all processes."""
    if not many_ranks():
        return count
    least = torch.tensor(count, device=device)
    distributed.all_reduce(least, distributed.ReduceOp.MIN)
    return int(least)


def _mean(value: Tensor, count: float) -> Tensor:
    total = sum_over_ranks(torch.cat([value.flatten(), value.new_full((1,), count)]))
    return (total[:-1] / total[-1]).reshape(value.shape)
