"""Scores and a sparsity become what is kept: exactly as many units go as were asked for, ties included.

Ties go by position, the lower index first, so that the result is the same everywhere. A layer always keeps one unit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["drop_count", "keep_highest", "select_common", "select_global"]


def drop_count(units: int, sparsity: float) -> int:
    """How many of ``units`` a sparsity asks to drop: ``int(units * sparsity)``, and never all of them.

    Products that miss a whole number only by rounding, such as ``100 * 0.57 = 56.99999999999999``, are that number.
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


def select_global(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Drop the lowest scores of all layers together; the best unit of each layer stays.

    Args:
        scores: of each layer, any shape, without NaN; larger stays. They must be comparable between layers.
        sparsity: the share of all units to drop, in [0, 1).

    Returns:
        bool of each layer's shape: True stays. Equal scores go by the order of the layers and of their units.
    """
    flat = {layer: own.detach().flatten().cpu().double() for layer, own in scores.items()}
    every = torch.cat(list(flat.values()))
    start, best = 0, []
    for own in flat.values():
        best.append(start + int(own.argmax()))
        start += own.numel()
    drop = min(drop_count(every.numel(), sparsity), every.numel() - len(best))
    every[best] = math.inf
    keep = torch.ones(every.numel(), dtype=torch.bool)
    keep[every.argsort(stable=True)[:drop]] = False
    parts = keep.split([own.numel() for own in flat.values()])
    return {
        layer: part.reshape(scores[layer].shape).to(scores[layer].device)
        for layer, part in zip(flat, parts, strict=True)
    }


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
) -> dict[str, Tensor]:
    """Choose channels together where layers can only lose them together (dependency-aware selection).

    In each cell whose members are all selected, the classes with the lowest score, summed over the members, go: as
    many as the smallest of the members' sparsities asks for. Class 0 never goes here. After that each layer drops more
    of its channels, by its own scores, until it has dropped what its own sparsity asks for; what it lost in common
    counts.

    Args:
        scores: ``(O,)`` of each selected layer; larger stays.
        sparsities: of each selected layer, in [0, 1).
        classes: ``(O,)`` class ids of every producer, selected or not: equal ids live and die together, 0 is frozen.
        cells: ``(O,)`` cell ids of every producer: a cell holds the classes among which to choose.

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
            dropped |= _lowest_of_cell(cell, sorted(layers), scores, classes, cells, common)
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
) -> set[int]:
    ids = np.concatenate([classes[layer] for layer in layers])
    values = np.concatenate([scores[layer].detach().double().cpu().numpy() for layer in layers])
    inside = np.concatenate([cells[layer] for layer in layers]) == cell
    inside &= ids != 0
    found, position = np.unique(ids[inside], return_inverse=True)
    total = np.bincount(position, weights=values[inside], minlength=len(found))
    order = np.argsort(total, kind="stable")
    return {int(found[at]) for at in order[: drop_count(len(found), sparsity)]}
