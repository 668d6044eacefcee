"""Scores and a sparsity become what is kept: exactly as many units go as were asked for, ties included.

Ties go by position, the lower index first, so that the result is the same everywhere. A layer always keeps one unit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "block_sums",
    "drop_count",
    "keep_highest",
    "keep_of_blocks",
    "keep_of_runs",
    "select_common",
    "select_global",
]


Reduction = Literal["sum", "mean", "max"]


def drop_count(units: int, sparsity: float) -> int:
    """How many of ``units`` a sparsity asks to drop: ``int(units * sparsity)``, and never all of them.

    Products that miss a whole number only by rounding, such as ``100 * 0.57 = 56.99999999999999``, are that number. No
    paper's, as all counting here.
    """
    return max(0, min(math.floor(units * sparsity + 1e-6), units - 1))


def keep_highest(scores: Tensor, drop: int) -> Tensor:
    """Drop exactly the ``drop`` lowest scores, the lower index first among equals.

    Args:
        scores: any shape, without NaN; larger stays.
        drop: between 0 and the number of scores.

    Returns:
        bool of the scores' shape: True stays.
    """
    flat = scores.detach().flatten()
    if drop <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = _kth_lowest(flat, drop)
    keep = flat > threshold
    # At the threshold itself as many go as are still missing: the first ones.
    equal = (flat == threshold).nonzero().flatten()
    surplus = equal[drop - int(torch.count_nonzero(flat < threshold)) :]
    keep[surplus] = True
    return keep.reshape(scores.shape)


def select_global(
    scores: Mapping[str, Tensor], sparsity: float, most: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Drop the lowest scores of all layers together; the best unit of each layer stays.

    Args:
        scores: of each layer, any shape, without NaN; larger stays. They must be comparable between layers.
        sparsity: the share of all units to drop, in [0, 1).
        most: of layers that may not lose more, the largest share of their units to drop: the best ones stay. Where that
            leaves too few to drop, fewer go than asked for.

    Returns:
        bool of each layer's shape: True stays. Equal scores go by the order of the layers and of their units.
    """
    flat = {layer: own.detach().flatten().cpu().double() for layer, own in scores.items()}
    every = torch.cat(list(flat.values()))
    start, best = 0, []
    for layer, own in flat.items():
        stay = own.numel() - drop_count(own.numel(), (most or {}).get(layer, 1.0))
        best.append(start + own.argsort(descending=True, stable=True)[:stay])
        start += own.numel()
    safe = torch.cat(best)
    drop = min(drop_count(every.numel(), sparsity), every.numel() - len(safe))
    every[safe] = math.inf
    keep = torch.ones(every.numel(), dtype=torch.bool)
    keep[every.argsort(stable=True)[:drop]] = False
    parts = keep.split([own.numel() for own in flat.values()])
    return {
        layer: part.reshape(scores[layer].shape).to(scores[layer].device)
        for layer, part in zip(flat, parts, strict=True)
    }


def keep_of_runs(scores: Tensor, left: int, of: int, *, axis: int) -> Tensor:
    """Keep the ``left`` highest of every ``of`` neighbours along an axis, the higher index among equals.

    Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, section 3, no numbered equation.

    Args:
        scores: any shape, without NaN; larger stays.
        left: how many stay of each run.
        of: the length of a run; the last may be shorter, and keeps as many if it has them.
        axis: along which runs lie.

    Returns:
        bool of the scores' shape: True stays.
    """
    rows = scores.detach().movedim(axis, -1)
    length = rows.shape[-1]
    runs = torch.nn.functional.pad(rows.double(), (0, -length % of), value=-math.inf)
    runs = runs.reshape(*rows.shape[:-1], -1, of)
    keep = torch.ones_like(runs, dtype=torch.bool)
    keep.scatter_(-1, runs.argsort(dim=-1, stable=True)[..., : of - left], value=False)
    return keep.flatten(-2)[..., :length].movedim(-1, axis)


def keep_of_blocks(scores: Tensor, sizes: Sequence[int], sparsity: float) -> Tensor:
    """Drop the same share of every block, the lowest scores of each.

    Cao et al., "Efficient and Effective Sparse LSTM on FPGA with Bank-Balanced Sparsity", FPGA 2019, section 3, no
    numbered equation.

    Args:
        scores: any shape, without NaN; larger stays.
        sizes: of a block along each axis; the last block along an axis may be smaller.
        sparsity: the share of each block to drop, in [0, 1); each keeps one entry.

    Returns:
        bool of the scores' shape: True stays.
    """
    keep = torch.ones_like(scores, dtype=torch.bool)
    starts = [range(0, length, size) for length, size in zip(scores.shape, sizes, strict=True)]
    for corner in product(*starts):
        place = tuple(slice(start, start + size) for start, size in zip(corner, sizes, strict=True))
        block = scores[place]
        keep[place] = keep_highest(block, drop_count(block.numel(), sparsity))
    return keep


def block_sums(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sum of every block, ``(A, B, ...) -> (A / sizes[0], B / sizes[1], ...)``, rounded up."""
    for axis, size in enumerate(sizes):
        places = torch.arange(values.shape[axis], device=values.device) // size
        shape = list(values.shape)
        shape[axis] = math.ceil(shape[axis] / size)
        values = values.new_zeros(shape).index_add_(axis, places, values)
    return values


def _kth_lowest(flat: Tensor, k: int) -> Tensor:
    if flat.device.type != "cpu":
        return flat.kthvalue(k).values
    # numpy selects several times faster on the CPU; it knows no bfloat16, and float32 holds that exactly.
    values = (flat.float() if flat.dtype == torch.bfloat16 else flat).numpy()
    return torch.as_tensor(np.partition(values, k - 1)[k - 1])


def select_common(
    scores: Mapping[str, Tensor],
    sparsities: Mapping[str, float],
    classes: Mapping[str, np.ndarray],
    cells: Mapping[str, np.ndarray],
    reduction: Reduction = "sum",
) -> dict[str, Tensor]:
    """Choose channels together where layers can only lose them together (dependency-aware selection).

    In each cell whose members are all selected, the classes with the lowest score, summed over the members, go (or
    those of the lowest mean, or whose best member is the lowest): as many as the smallest of the members' sparsities
    asks for. Class 0 never goes here. After that each layer drops more of its channels, by its own scores, until it has
    dropped what its own sparsity asks for; what it lost in common counts.

    Args:
        scores: ``(O,)`` of each selected layer; larger stays.
        sparsities: of each selected layer, in [0, 1).
        classes: ``(O,)`` class ids of every producer, selected or not: equal ids live and die together, 0 is frozen.
        cells: ``(O,)`` cell ids of every producer: a cell holds the classes among which to choose.
        reduction: what a class is worth that several channels make.

    Returns:
        ``(O,)`` bool of each selected layer: True stays.
    """
    members: dict[int, set[str]] = defaultdict(set)
    for layer, ids in cells.items():
        for cell in np.unique(ids[classes[layer] != 0]):
            members[int(cell)].add(layer)
    dropped: set[int] = set()
    for cell, layers in members.items():
        if layers <= scores.keys():
            common = min(sparsities[layer] for layer in layers)
            dropped |= _lowest_of_cell(cell, sorted(layers), scores, classes, cells, common, reduction)
    keep = {}
    for layer, own in scores.items():
        gone = np.isin(classes[layer], sorted(dropped)) if layer in classes else np.zeros(own.numel(), dtype=bool)
        gone_here = torch.from_numpy(gone).to(own.device)
        # What is gone counts first, and a layer whose share of the common drop is larger than its own keeps to it.
        drop = max(drop_count(own.numel(), sparsities[layer]), int(gone.sum()))
        keep[layer] = keep_highest(own.masked_fill(gone_here, -math.inf), drop)
    return keep


def _lowest_of_cell(
    cell: int,
    layers: list[str],
    scores: Mapping[str, Tensor],
    classes: Mapping[str, np.ndarray],
    cells: Mapping[str, np.ndarray],
    sparsity: float,
    reduction: Reduction,
) -> set[int]:
    ids = np.concatenate([classes[layer] for layer in layers])
    values = np.concatenate([scores[layer].detach().double().cpu().numpy() for layer in layers])
    inside = np.concatenate([cells[layer] for layer in layers]) == cell
    inside &= ids != 0
    found, position = np.unique(ids[inside], return_inverse=True)
    if reduction == "max":
        worth = np.full(len(found), -np.inf)
        np.maximum.at(worth, position, values[inside])
    else:
        worth = np.bincount(position, weights=values[inside], minlength=len(found))
        worth = worth / np.bincount(position, minlength=len(found)) if reduction == "mean" else worth
    order = np.argsort(worth, kind="stable")
    return {int(found[at]) for at in order[: drop_count(len(found), sparsity)]}
