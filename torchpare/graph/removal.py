"""From masks to a removal that the whole model can follow.

A mask asks for channels of one layer. A channel can only go if everything that shares it agrees, if every row it leaves
keeps what its neighbours keep, and if every size in the code can follow. This file turns asking into a decision: it
drops the most it can, puts back the least it must, and remembers every channel it had to put back, and why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpare.errors import MaskConflictError
from torchpare.graph.labels import LabelArray
from torchpare.graph.search import Solution
from torchpare.graph.sizes import ARITHMETIC, Attribute, Const, Dim, Expr
from torchpare.graph.votes import Restored, Votes, count_votes, masks_by_uid, scattered
from torchpare.types import Masks

if TYPE_CHECKING:
    from torchpare.graph.space import PruningSpace

__all__ = ["OnConflict", "Removal", "Restored", "decide_removal", "group_masks", "reconciled_masks"]

OnConflict = Literal["reconcile", "refuse"]


@dataclass(frozen=True)
class Removal:
    """A decision: which classes go, which module attributes follow, and which wishes could not be met."""

    space: PruningSpace
    gone: NDArray[np.bool_]
    """By class id, whether it goes."""
    attributes: Mapping[Attribute, int]
    restored: tuple[Restored, ...]
    returned: NDArray[np.bool_]
    """By class id, whether it was asked for by all and had to be put back, for counts or sizes to agree."""

    def lost(self, labels: LabelArray) -> NDArray[np.bool_]:
        """Which entries of an array of labels go."""
        return self._lost[labels]

    @cached_property
    def _lost(self) -> NDArray[np.bool_]:
        """By label, whether it goes."""
        return self.gone[self.space.canonical(np.arange(self.space.size))]

    def kept_axes(self, uid: int) -> list[NDArray[np.bool_]]:
        """For each axis of a value a bool array of its rank, size 1 where nothing varies: False goes."""
        return [~self.lost(array) for array in self.space.axes(uid)]

    def shape(self, uid: int) -> tuple[int, ...]:
        """The shape of a value after the removal."""
        before = self.space.program.values[uid].shape
        return tuple(_count(kept, axis, before[axis]) for axis, kept in enumerate(self.kept_axes(uid)))

    def size(self, expr: Expr) -> Any:
        """What an expression of sizes comes to after the removal."""
        if isinstance(expr, Const):
            return expr.value
        if isinstance(expr, Dim):
            return self.shape(expr.uid)[expr.axis]
        if isinstance(expr, Attribute):
            return self.attributes.get(expr, self.space.program.attributes[expr])
        return ARITHMETIC[expr.symbol](self.size(expr.left), self.size(expr.right))

    @property
    def empty(self) -> bool:
        """Whether nothing goes."""
        return not self.gone.any()


def decide_removal(
    space: PruningSpace,
    masks: Masks,
    *,
    on_conflict: OnConflict = "reconcile",
    weights: Mapping[str, Tensor] | None = None,
    excluded: Collection[int] = (),
) -> Removal:
    """Decide which channels go, given masks.

    Args:
        space: the analysis of the model.
        masks: by layer and parameter name; True stays. Layers without a mask keep their channels.
        on_conflict: where layers that share channels disagree, ``reconcile`` keeps the channel, ``refuse`` raises.
        weights: parameters by qualified name; where channels must be put back, those with the largest absolute weights
            are. Without them the first ones are.
        excluded: variables of the space's sizing that must keep everything.

    Raises:
        MaskError: if a mask names a layer or parameter that the model does not have, or has the wrong shape.
        MaskConflictError: if layers that share channels disagree, and ``on_conflict`` is ``refuse``.
    """
    votes = count_votes(space, masks_by_uid(space, masks))
    if on_conflict == "refuse" and votes.conflicts:
        lines = "\n  ".join(f"{item.channels} channels of {', '.join(item.layers)}" for item in votes.conflicts)
        message = (
            f"these layers share channels, and their masks disagree about them:\n  {lines}\n"
            "Prune with dependency_aware=True, or let the disagreement be reconciled (the channels are kept)"
        )
        raise MaskConflictError(message)
    decision = _Decision(space, votes, weights or {})
    decision.settle(excluded)
    restored = (*votes.conflicts, *votes.fixed, *decision.restored)
    return Removal(space, decision.gone, decision.edits, restored, votes.wanted & ~decision.gone)


def group_masks(removal: Removal, masks: Masks, *, unmask_returned: bool = False) -> Masks:
    """``masks``, completed over the whole group of every channel that will leave the model.

    Masked are the filter that makes the channel and its bias, the scale and shift of its norm, and, where the channel
    does not arrive as zero (after a sigmoid, say), the columns that read it. A model that is fine-tuned under these
    masks is the same function as the small one.

    Args:
        removal: the decision made about these masks.
        masks: by layer and parameter name.
        unmask_returned: channels that had to be put back, because every group of a grouped convolution must keep
            equally many, lose their masks: they will be there, so they may learn. For masks that nothing was trained
            under yet.
    """
    space = removal.space
    given = masks_by_uid(space, masks)
    completed: Masks = {layer: dict(parameters) for layer, parameters in masks.items()}
    for name, value in space.values.items():
        if value.kind != "parameter":
            continue
        layer, _, parameter = name.rpartition(".")
        keep = _group_mask(removal, value.uid)
        if value.uid in given:
            own = given[value.uid]
            own = _without_returned(removal, value.uid, own) if unmask_returned else own
            keep = own if keep is None else own & keep
        if keep is not None:
            known = completed.setdefault(layer, {}).get(parameter)
            tensor = torch.from_numpy(np.ascontiguousarray(keep))
            completed[layer][parameter] = tensor if known is None else tensor.to(known.device)
    return completed


def _group_mask(removal: Removal, uid: int) -> NDArray[np.bool_] | None:
    """What must be zero of one parameter for its channels to be gone; None where nothing is."""
    silent = removal.space.silent_readers
    keep = None
    for axis, kept in enumerate(removal.kept_axes(uid)):
        if not kept.all() and (uid, axis) not in silent:
            keep = kept if keep is None else keep & kept
    return keep


def _without_returned(removal: Removal, uid: int, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A structured mask, with the channels unmasked that were put back."""
    if not removal.returned.any() or scattered(removal.space, uid, mask):
        return mask
    result = np.ones((1,) * mask.ndim, dtype=bool)
    for axis, labels in enumerate(removal.space.axes(uid)):
        if mask.shape[axis] == 1:
            continue
        others = tuple(other for other in range(mask.ndim) if other != axis and labels.shape[other] == 1)
        own = mask.any(axis=others, keepdims=True)
        own = own | ~np.logical_or.reduce(
            own, axis=axis, keepdims=True
        )  # a row that is masked whole says nothing about its columns
        result = result & (own | removal.returned[removal.space.canonical(labels)])
    return result


def reconciled_masks(removal: Removal, masks: Masks) -> Masks:
    """``masks``, with every channel that stays unmasked as a whole. Fine-grained masks are left as they are."""
    space = removal.space
    given = masks_by_uid(space, masks)
    fixed: Masks = {layer: dict(parameters) for layer, parameters in masks.items()}
    for layer, parameters in masks.items():
        for name, mask in parameters.items():
            uid = space.values[f"{layer}.{name}" if layer else name].uid
            if scattered(space, uid, given[uid]):
                continue
            keep = np.ones_like(given[uid])
            for axis, kept in enumerate(removal.kept_axes(uid)):
                if mask.shape[axis] > 1:
                    keep = keep & kept
            fixed[layer][name] = torch.from_numpy(np.ascontiguousarray(keep)).to(mask.device)
    return fixed


class _Decision:
    """Drops every atom it can: sizes first, by `Sizing.solve`, then the weakest of those that were asked for."""

    def __init__(self, space: PruningSpace, votes: Votes, weights: Mapping[str, Tensor]) -> None:
        self.space = space
        self.sizing = space.sizing
        self.weights = weights
        self.whole, self.part = space.composites
        # An atom may go if a class that it takes along is wanted gone, and none that it takes along stays.
        wanted = votes.wanted.copy()
        np.logical_or.at(wanted, self.part, votes.wanted[self.whole])
        stays = votes.staying.copy()
        np.logical_or.at(stays, self.part, votes.staying[self.whole])
        wanted &= ~stays
        wanted[self.whole] = False
        wanted[self.sizing.cell_of < 0] = False
        self.wanted = wanted
        self.asked = votes.wanted
        self.strength = class_strength(space, weights)

    def settle(self, excluded: Collection[int]) -> None:
        """Find numbers that every row and every size can follow, then give back the strongest that must stay."""
        sizing = self.sizing
        lowest: dict[int, int] = {variable: sizing.size[variable] for variable in excluded}
        nothing_left: set[int] = set()
        inside_gone = self._inside_gone()
        for cell, atoms in enumerate(sizing.cells):
            if atoms.size and inside_gone[atoms].all():
                continue  # the slots of a group that goes as a whole say nothing about the others
            variable = int(sizing.variable_of[cell])
            kept = len(atoms) - int(self.wanted[atoms].sum())
            if kept < 1:
                nothing_left.add(variable)
            multiple = sizing.aligned.get(variable, 1)
            lowest[variable] = max(lowest.get(variable, 1), min(-(-kept // multiple) * multiple, len(atoms)))
        self.solution: Solution = sizing.solve(lowest, lowest, multiple=sizing.aligned)
        self.edits = self.solution.attributes
        atom_gone = np.zeros(self.space.size, dtype=bool)
        for cell, atoms in enumerate(sizing.cells):
            go = len(atoms) - self.solution.kept[int(sizing.variable_of[cell])]
            candidates = atoms[self.wanted[atoms]]
            weakest = candidates[np.argsort(self.strength[candidates], kind="stable")]
            atom_gone[weakest[:go]] = True
        self.gone = spread(self.space, atom_gone)
        self.restored = tuple(self._restored(nothing_left))

    def _inside_gone(self) -> NDArray[np.bool_]:
        """By atom, whether everything it belongs to goes by another atom: all slots of a group that goes."""
        outer = np.zeros(self.space.size, dtype=bool)
        for variable in self.sizing.outer:
            for cell in self.sizing.members(variable):
                atoms = self.sizing.cells[cell]
                outer[atoms] = self.wanted[atoms]
        lost = np.zeros(self.space.size, dtype=bool)
        np.logical_or.at(lost, self.whole, outer[self.part])
        members = np.zeros(self.space.size, dtype=np.int64)
        lost_members = np.zeros(self.space.size, dtype=np.int64)
        np.add.at(members, self.part, 1)
        np.add.at(lost_members, self.part, lost[self.whole])
        return (members > 0) & (members == lost_members) & ~outer

    def _restored(self, nothing_left: set[int]) -> Iterator[Restored]:
        """What was asked for by all and stays, by reason."""
        back = np.flatnonzero(self.asked & ~self.gone)
        back = back[self.space.canonical(back) == back]
        reasons: dict[str, list[int]] = {}
        for label in back.tolist():
            reasons.setdefault(self._why_back(label, nothing_left), []).append(label)
        for why, ids in reasons.items():
            yield Restored(self._layers_of(np.asarray(ids)), len(ids), why)

    def _why_back(self, label: int, nothing_left: set[int]) -> str:
        sizing = self.sizing
        variables = sorted(sizing.variables(np.asarray([label])))
        for variable in variables:
            if variable in sizing.fixed:
                return sizing.fixed[variable]
        for variable in variables:
            equation = self.solution.stuck.get(variable) or self.solution.bound.get(variable)
            if equation is not None:
                return f"{equation.why}, which cannot follow, in {equation.site}" if equation.site else equation.why
        for variable in variables:
            if variable in nothing_left:
                return f"'{self._named(label)}' would have nothing left"
        return "every group or piece must keep equally many"

    def _named(self, label: int) -> str:
        """A parameter that would be left without this class."""
        atoms = self.space.atoms(label) | {label}
        for (uid, _), role in self.space.roles.items():
            if role.kind == "makes" and atoms & set(np.unique(self.space.canonical(role.labels)).tolist()):
                return self.space.program.values[uid].names[0]
        return "an axis"

    def _layers_of(self, labels: LabelArray) -> tuple[str, ...]:
        """The layers that make any of these classes, or a composite of them."""
        ids = set(labels.tolist()) | set(self.whole[np.isin(self.part, labels)].tolist())
        makers = (
            self.space.layer_of(uid)
            for (uid, _), role in self.space.roles.items()
            if role.kind == "makes" and ids.intersection(np.unique(self.space.canonical(role.labels)).tolist())
        )
        return tuple(dict.fromkeys(makers))


def spread(space: PruningSpace, atom_gone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """By class, whether it goes: an atom that goes takes every composite with it."""
    gone = atom_gone.copy()
    whole, part = space.composites
    gone[whole[atom_gone[part]]] = True
    return gone


def class_strength(space: PruningSpace, weights: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """By class, the summed absolute weights that make it; an atom is as strong as all that it takes along."""
    strength = np.zeros(space.size)
    for (uid, axis), role in space.roles.items():
        value = space.program.values[uid]
        weight = next((weights[name] for name in value.names if name in weights), None)
        if role.kind != "makes" or weight is None or weight.is_meta:
            continue
        labels = space.canonical(role.labels)
        over = tuple(other for other, size in enumerate(labels.shape) if size == 1 and other != axis)
        sums = (
            weight.detach().abs().sum(dim=over, keepdim=True, dtype=torch.float64)
            if over
            else weight.detach().abs().double()
        )
        full = np.broadcast_shapes(labels.shape, tuple(sums.shape))
        np.add.at(strength, np.broadcast_to(labels, full), np.broadcast_to(sums.cpu().numpy(), full))
    whole, part = space.composites
    np.add.at(strength, part, strength[whole])
    return strength


def _count(kept: NDArray[np.bool_], axis: int, size: int) -> int:
    """How many entries of an axis are kept, in the first surviving row."""
    if kept.shape[axis] == 1:
        return size
    return int(kept.sum() if kept.size == kept.shape[axis] else kept.sum(axis=axis).max())
