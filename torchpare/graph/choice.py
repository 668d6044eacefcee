"""Choosing what to remove from scores alone: how many of each group, then which, for every group of a model at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import lcm

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpare.graph.removal import Removal, Restored, spread
from torchpare.graph.sizes import Attribute
from torchpare.graph.space import PruningSpace
from torchpare.graph.structures import Group
from torchpare.numerics import Reduction

__all__ = ["atom_scores", "choose", "filter_scores"]

_BLOCK = 2**17  # weights whose absolute values are held at once


def choose(
    space: PruningSpace,
    groups: Sequence[Group],
    sparsity: Mapping[int, float],
    scores: NDArray[np.float64],
    *,
    round_to: Mapping[int, int] | None = None,
    excluded: Collection[int] = (),
    pinned: Collection[Attribute] = (),
) -> Removal:
    """Remove from each group the share that is asked for, as nearly as the sizes of the model allow.

    Args:
        space: the analysis of the model.
        groups: of that space, see `torchpare.graph.structures.groups_of`.
        sparsity: by variable of a group, the share to remove, in [0, 1). Groups that are not named keep everything,
            unless a size makes them follow one that is.
        scores: by class id, how important an atom is; larger stays. See `atom_scores`.
        round_to: by variable, a number of which what is kept should be a multiple.
        excluded: variables that must keep everything.
        pinned: attributes of modules that must keep their values.
    """
    sizing = space.sizing
    target = {v: max(1, sizing.size[v] - _share(sizing.size[v], share)) for v, share in sparsity.items()}
    wanted = round_to or {}
    round_to = {v: lcm(wanted.get(v, 1), sizing.aligned.get(v, 1)) for v in wanted.keys() | sizing.aligned.keys()}
    for variable, multiple in round_to.items():
        if variable in target:
            target[variable] = _rounded(target[variable], multiple, sizing.size[variable])
    asked = sorted(target, key=lambda v: sizing.size[v])
    whole = {variable: sizing.size[variable] for variable in excluded}
    solution = sizing.solve(target, whole, first=asked, multiple=round_to, pinned=pinned)
    gone = np.zeros(space.size, dtype=bool)
    for cell, atoms in enumerate(sizing.cells):
        drop = len(atoms) - solution.kept[int(sizing.variable_of[cell])]
        gone[atoms[np.argsort(scores[atoms], kind="stable")][:drop]] = True
    restored = []
    for group in groups:
        wanted = target.get(group.variable, group.size)
        kept = solution.kept[group.variable]
        if kept > wanted:
            equation = solution.stuck.get(group.variable) or solution.bound.get(group.variable)
            site = f" in {equation.site}" if equation is not None and equation.site else ""
            why = f"{equation.why}{site}" if equation is not None else "it must stay a multiple"
            restored.append(Restored(tuple(group.layers) or (group.name,), (kept - wanted) * group.rows, why))
    none = np.zeros(space.size, dtype=bool)
    return Removal(space, spread(space, gone), solution.attributes, tuple(restored), none)


def _share(size: int, share: float) -> int:
    return int(size * share + 1e-6)


def _rounded(kept: int, multiple: int, size: int) -> int:
    """The multiple nearest to ``kept``, at least one of them; everything where the group is smaller than that."""
    return size if size < multiple else max(multiple, round(kept / multiple) * multiple)


@torch.no_grad()
def atom_scores(
    space: PruningSpace, weights: Mapping[str, Tensor], *, p: float = 1.0, evenly: bool = True
) -> NDArray[np.float64]:
    """By class id, the p-norm (to the power p) of all the weights that go with it, in every parameter it lies in.

    Each parameter counts in proportion to its own mean, so that a wide reader does not drown a narrow maker; not so if
    not ``evenly``: then all numbers are added up as they are. Weights without values (on the meta device) say nothing:
    then the first channels stay.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1; summed over a group as in Fang et al.,
    "DepGraph: Towards Any Structural Pruning", CVPR 2023, section 3.3.
    """
    total = np.zeros(space.size)
    done: set[int] = set()
    for name, value in space.values.items():
        weight = weights.get(name)
        if value.kind != "parameter" or value.uid in done or weight is None or weight.is_meta or not weight.numel():
            continue
        done.add(value.uid)
        classes = {
            axis: space.canonical(labels) for axis, labels in enumerate(space.axes(value.uid)) if labels.shape[axis] > 1
        }
        classes = {axis: ids for axis, ids in classes.items() if ids.any()}
        overs = [tuple(other for other, length in enumerate(ids.shape) if length == 1) for ids in classes.values()]
        norms = _norms(weight.detach(), overs, p)
        mean = float(norms[0].sum()) / weight.numel() if norms else 0.0
        if not mean:
            continue
        for (axis, ids), norm in zip(classes.items(), norms, strict=True):
            per_entry = weight.numel() / max(weight.shape[axis], 1)
            shares = norm.cpu().numpy() / (mean * per_entry if evenly else 1.0)
            if ids.shape == shares.shape:
                np.add.at(total, ids, shares)
            else:
                np.add.at(total, *np.broadcast_arrays(ids, shares))
    whole, part = space.composites
    np.add.at(total, part, total[whole])
    # Ties (and weights without values) go by position: the later index first.
    return total - np.arange(space.size) * 1e-18


def filter_scores(
    space: PruningSpace, scores: Mapping[str, Tensor], reduction: Reduction = "sum"
) -> NDArray[np.float64]:
    """By class id, how important an atom is, told from the filters that make it in every layer that was scored.

    Args:
        space: the analysis of the model.
        scores: by layer ``(O,)``, of each of its filters; larger stays, and minus infinity is gone already.
        reduction: what an atom of several filters is worth (a channel that several layers make, a head of many): their
            ``"sum"``, their ``"mean"`` or their ``"max"``. Filters that are gone count for nothing; an atom that has no
            others goes first.
    """
    whole, part = space.composites
    order = np.argsort(whole, kind="stable")
    whole, part = whole[order], part[order]
    ids, values = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for layer, own in scores.items():
        classes, worth = space.classes(layer), own.detach().double().cpu().numpy()
        # A channel that lies in a head counts for the head, and for the place that it has in every head.
        first, last = (np.searchsorted(whole, classes, side=side) for side in ("left", "right"))
        inside = np.repeat(np.arange(len(classes)), last - first)
        places = np.arange(len(inside)) - np.repeat(np.cumsum(last - first) - last, last - first)
        ids += [classes, part[places]]
        values += [worth, worth[inside]]
    every, worth = np.concatenate(ids), np.concatenate(values)
    alive = np.isfinite(worth)
    count = np.bincount(every[alive], minlength=space.size)
    total = np.zeros(space.size)
    if reduction == "max":
        total[count > 0] = -np.inf
        np.maximum.at(total, every[alive], worth[alive])
    else:
        np.add.at(total, every[alive], worth[alive])
        total /= np.maximum(count, 1) if reduction == "mean" else 1
    total[np.setdiff1d(every, every[alive])] = -np.inf
    return total


def _norms(weight: Tensor, overs: Sequence[tuple[int, ...]], p: float) -> list[Tensor]:
    """The sums of the absolute weights to the power p over each of several tuples of axes, in float64.

    Large weights go block by block, so that they are never in memory a second time.
    """
    if not overs or weight.numel() <= _BLOCK:
        size = weight.abs() if overs else weight
        return [_summed(size if p == 1 else size.pow(p), over) for over in overs]
    blocks = weight.split(max(1, _BLOCK * len(weight) // weight.numel()))
    room = torch.empty_like(blocks[0], dtype=blocks[0][:0].abs().dtype, memory_format=torch.contiguous_format)
    found: list[list[Tensor]] = [[] for _ in overs]
    for block in blocks:
        size = torch.abs(block, out=room[: len(block)])
        size = size if p == 1 else size.pow_(p)
        for sums, over in zip(found, overs, strict=True):
            if 0 in over and sums:
                sums[0] += _summed(size, over)
            else:
                sums.append(_summed(size, over))
    return [torch.cat(sums) for sums in found]


def _summed(size: Tensor, over: tuple[int, ...]) -> Tensor:
    """Sums in float64; the first axis before the others, which is far faster than all at once."""
    if over[:1] == (0,) and len(over) > 1:
        return size.sum(dim=0, keepdim=True).double().sum(dim=over[1:], keepdim=True)
    return (size.sum(dim=over, keepdim=True) if over else size.clone()).double()
