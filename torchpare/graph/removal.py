"""From masks to a removal that the whole model can follow.

A mask asks for channels of one layer. A channel can only go if everything that shares it agrees, if every row it leaves
keeps what its neighbours keep, and if every size in the code can follow. This file turns asking into a decision: it
drops the most it can, puts back the least it must, and remembers every channel it had to put back, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpare.errors import MaskConflictError
from torchpare.graph.labels import LabelArray
from torchpare.graph.sizes import Attribute, Const, Dim, Expr, attributes, evaluate, solve
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
        return self.gone[self.space.canonical(labels)]

    def kept_axes(self, uid: int) -> list[NDArray[np.bool_]]:
        """For each axis of a value a bool array of its rank, size 1 where nothing varies: False goes."""
        return [~self.lost(array) for array in self.space.axes(uid)]

    def shape(self, uid: int) -> tuple[int, ...]:
        """The shape of a value after the removal."""
        return tuple(
            _count(kept, axis, size)
            for axis, (kept, size) in enumerate(
                zip(self.kept_axes(uid), self.space.program.values[uid].shape, strict=True)
            )
        )

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
) -> Removal:
    """Decide which channels go, given masks.

    Args:
        space: the analysis of the model.
        masks: by layer and parameter name; True stays. Layers without a mask keep their channels.
        on_conflict: where layers that share channels disagree, ``reconcile`` keeps the channel, ``refuse`` raises.
        weights: parameters by qualified name; where channels must be put back, those with the largest absolute weights
            are. Without them the first ones are.

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
    decision.settle()
    restored = (*votes.conflicts, *votes.fixed, *decision.restored)
    return Removal(space, decision.gone, decision.edits, restored, votes.wanted & ~decision.gone)


def group_masks(removal: Removal, masks: Masks, *, unmask_returned: bool = False) -> Masks:
    """``masks``, completed over the whole group of every channel that will leave the model.

    Masked are the filter that makes the channel and its bias, the scale and shift of its norm, and, where the channel
    does not arrive as zero (behind a sigmoid, say), the columns that read it. A model that is fine-tuned under these
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
    """Drops every atom it can, then puts back until rows, counts and sizes agree. Putting back only, so it ends."""

    def __init__(self, space: PruningSpace, votes: Votes, weights: Mapping[str, Tensor]) -> None:
        self.space = space
        self.weights = weights
        self.whole, self.part = space.composites
        self._returned: dict[str, list[LabelArray]] = {}
        self.edits: dict[Attribute, int] = {}
        self._strength: NDArray[np.float64] | None = None
        # An atom may go if a class that it takes along is wanted gone, and none that it takes along stays.
        self.atom_gone = votes.wanted.copy()
        np.logical_or.at(self.atom_gone, self.part, votes.wanted[self.whole])
        stays = votes.staying.copy()
        np.logical_or.at(stays, self.part, votes.staying[self.whole])
        self.atom_gone &= ~stays
        self.atom_gone[self.whole] = False
        self.gone = self._spread()

    def _spread(self) -> NDArray[np.bool_]:
        gone = self.atom_gone.copy()
        np.logical_or.at(gone, self.whole, self.atom_gone[self.part])
        return gone

    def lost(self, labels: LabelArray) -> NDArray[np.bool_]:
        return self.gone[self.space.canonical(labels)]

    def settle(self) -> None:
        """Repeat the three checks until none of them puts anything back."""
        while self._fill_empty_axes() or self._level_rows() or self._follow_sizes():
            pass

    @property
    def restored(self) -> tuple[Restored, ...]:
        """What was put back, by reason."""
        gathered = {why: np.unique(np.concatenate(ids)) for why, ids in self._returned.items()}
        return tuple(Restored(self._layers_of(ids), len(ids), why) for why, ids in gathered.items())

    def _put_back(self, ids: LabelArray, why: str) -> bool:
        """Put lost classes back; their atoms must not go any more."""
        ids = np.unique(ids)
        ids = ids[self.gone[ids]]
        if not ids.size:
            return False
        for label in ids.tolist():
            self.atom_gone[list(self.space.atoms(label))] = False
        self.gone = self._spread()
        self._returned.setdefault(why, []).append(ids)
        return True

    def _strongest(self, labels: LabelArray, count: int) -> LabelArray:
        """The ``count`` strongest lost classes among ``labels``."""
        ids = np.unique(self.space.canonical(labels))
        ids = ids[self.gone[ids]]
        return ids[np.argsort(-self.strength[ids], kind="stable")][:count]

    def _fill_empty_axes(self) -> bool:
        changed = False
        for value in self.space.values.values():
            for axis, labels in enumerate(self.space.axes(value.uid)):
                if labels.shape[axis] > 1 and self.lost(labels).all():
                    why = f"'{value.names[0]}' would have nothing left"
                    changed |= self._put_back(self._strongest(labels, 1), why)
        return changed

    def _level_rows(self) -> bool:
        changed = False
        for rows in self.space.equal_counts:
            kept = (~self.lost(rows)).sum(axis=1)
            short = np.flatnonzero(kept < kept.max())
            if short.size:
                missing = [self._strongest(rows[row], int(kept.max() - kept[row])) for row in short]
                changed |= self._put_back(np.concatenate(missing), "every group or piece must keep equally many")
        return changed

    def _follow_sizes(self) -> bool:
        """Give attributes the values that the sizes ask for; put back what no value can follow."""
        self.edits = {}
        for _ in range(len(self.space.equations) + 1):
            before = dict(self.edits)
            for equation in self.space.equations:
                kept = int((~self.lost(equation.labels)).sum())
                if self._value(equation.expr) == kept:
                    continue
                unknown = [attribute for attribute in attributes(equation.expr) if attribute not in before]
                answer = None
                if len(unknown) == 1 and unknown[0] not in self.edits:
                    answer = solve(equation.expr, kept, unknown[0], self._value)
                if answer is None or answer < 1:
                    why = f"the code computes a size as {equation.expr}, which cannot follow, in {equation.site}"
                    labels = [equation.labels.ravel(), *(axis.ravel() for axis in self._measured(equation.expr))]
                    if self._put_back(self.space.canonical(np.concatenate(labels)), why):
                        return True
                    continue
                self.edits[unknown[0]] = answer
            if self.edits == before:
                break
        return False

    def _value(self, expr: Expr) -> int:
        try:
            return evaluate(expr, self._dim, lambda attribute: self.edits.get(attribute, self._original(attribute)))
        except ZeroDivisionError:
            return -1

    def _dim(self, dim: Dim) -> int:
        value = self.space.program.values[dim.uid]
        array = self.space.axes(dim.uid)[dim.axis]
        return _count(~self.lost(array), dim.axis, value.shape[dim.axis])

    def _original(self, attribute: Attribute) -> int:
        return self.space.program.attributes[attribute]

    def _measured(self, expr: Expr) -> list[LabelArray]:
        """The label arrays of the axes that an expression reads."""
        if isinstance(expr, Dim):
            return [self.space.axes(expr.uid)[expr.axis]]
        if isinstance(expr, (Const, Attribute)):
            return []
        return [*self._measured(expr.left), *self._measured(expr.right)]

    @property
    def strength(self) -> NDArray[np.float64]:
        """The summed absolute weights that make each class."""
        if self._strength is None:
            self._strength = np.zeros(self.space.size)
            for (uid, axis), role in self.space.roles.items():
                value = self.space.program.values[uid]
                weight = next((self.weights[name] for name in value.names if name in self.weights), None)
                labels = self.space.canonical(role.labels)
                if role.kind == "makes" and weight is not None and labels.size in (1, value.shape[axis]):
                    others = [other for other in range(weight.dim()) if other != axis]
                    sums = weight.detach().abs().double().sum(dim=others) if others else weight.detach().abs().double()
                    np.add.at(self._strength, np.broadcast_to(labels.ravel(), sums.shape), sums.cpu().numpy())
            np.add.at(self._strength, self.part, self._strength[self.whole])  # an atom is as strong as what it takes
        return self._strength

    def _layers_of(self, labels: LabelArray) -> tuple[str, ...]:
        """The layers that make any of these classes, or a composite of them."""
        ids = set(labels.tolist()) | set(self.whole[np.isin(self.part, labels)].tolist())
        makers = (
            self.space.layer_of(uid)
            for (uid, _), role in self.space.roles.items()
            if role.kind == "makes" and ids.intersection(np.unique(self.space.canonical(role.labels)).tolist())
        )
        return tuple(dict.fromkeys(makers))


def _count(kept: NDArray[np.bool_], axis: int, size: int) -> int:
    """How many entries of an axis are kept, in the first surviving row."""
    if kept.shape[axis] == 1:
        return size
    rows = np.moveaxis(kept, axis, -1).reshape(-1, kept.shape[axis])
    return int(rows.sum(axis=1).max())
