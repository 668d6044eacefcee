"""What masks ask for, counted by class of channels: who wants it gone, who does not, and who shares it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpare.errors import MaskError
from torchpare.graph.flow import Role
from torchpare.graph.labels import LabelArray
from torchpare.graph.silenced import silenced_classes
from torchpare.types import Masks

if TYPE_CHECKING:
    from torchpare.graph.space import PruningSpace

__all__ = ["Restored", "Votes", "as_bool", "count_votes", "masks_by_uid", "scattered"]


@dataclass(frozen=True)
class Restored:
    """Channels that were asked for and stay: how many, of which layers, and why."""

    layers: tuple[str, ...]
    channels: int
    why: str


@dataclass(frozen=True)
class Votes:
    """By class of channels (bool arrays over class ids), and the wishes that cannot be met."""

    wanted: NDArray[np.bool_]
    staying: NDArray[np.bool_]
    conflicts: tuple[Restored, ...]
    fixed: tuple[Restored, ...]


def masks_by_uid(space: PruningSpace, masks: Masks) -> dict[int, NDArray[np.bool_]]:
    """Masks as arrays, by the uid of their parameter.

    Raises:
        MaskError: if a mask names a parameter that the model does not have, or has the wrong shape.
    """
    found: dict[int, NDArray[np.bool_]] = {}
    for layer, parameters in masks.items():
        for parameter, mask in parameters.items():
            name = f"{layer}.{parameter}" if layer else parameter
            value = space.values.get(name)
            if value is None:
                message = f"the masks name '{name}', but the model has no such parameter"
                raise MaskError(message)
            shape = tuple(mask.shape)
            fits = len(shape) == len(value.shape) and all(m in (1, n) for m, n in zip(shape, value.shape, strict=True))
            if not fits:
                message = f"the mask of '{name}' has shape {shape}, which does not fit its shape {value.shape}"
                raise MaskError(message)
            found[value.uid] = as_bool(mask).cpu().numpy()
    return found


def as_bool(mask: Tensor) -> Tensor:
    """A mask as bool: whatever is not zero stays."""
    return mask if mask.dtype == torch.bool else mask != 0


def count_votes(space: PruningSpace, masks: dict[int, NDArray[np.bool_]]) -> Votes:
    """A class is wanted gone where every layer that makes it, or every layer that reads it, was asked to drop it."""
    members = {kind: np.zeros(space.size, dtype=np.int64) for kind in ("makes", "reads")}
    asked = {kind: np.zeros(space.size, dtype=np.int64) for kind in ("makes", "reads")}
    makers: dict[str, NDArray[np.int64]] = {}
    fixed: list[Restored] = []
    silenced = silenced_classes(space, masks)
    fine = {uid for uid, mask in masks.items() if scattered(space, uid, mask)}
    fine_layers = {space.layer_of(uid) for uid in fine}
    for (uid, axis), role in (*space.roles.items(), *_computed_weights(space, masks)):
        layer, is_bias = space.layer_of(uid), len(space.program.values[uid].shape) == 1
        if is_bias and uid not in masks and uid not in silenced and layer not in fine_layers:
            continue  # a bias goes where its weight goes, unless it was given a mask of its own
        labels = space.canonical(role.labels)
        mask = None if uid in fine else masks.get(uid)
        present = np.unique(labels)
        members[role.kind][present] += 1
        dead = _dead_classes(labels, mask) if mask is not None else np.empty(0, dtype=np.int64)
        if role.kind == "makes" and uid in silenced:
            dead = np.union1d(dead, np.intersect1d(silenced[uid], present))
        asked[role.kind][dead] += 1
        if role.kind == "makes" and not is_bias:
            makers[layer] = present
            if mask is not None:
                fixed.extend(_fixed_wishes(space, layer, labels, mask, axis))
    for labels in space.other_readers:
        members["reads"][np.unique(space.canonical(labels))] += 1  # a sum over channels has no mask to agree with
    wanted = np.zeros(space.size, dtype=bool)
    for kind in ("makes", "reads"):
        wanted |= (members[kind] > 0) & (asked[kind] == members[kind])
    wanted[0] = False
    contested = (asked["makes"] > 0) & ~wanted
    contested[0] = False
    present = (members["makes"] > 0) | (members["reads"] > 0)
    return Votes(wanted, present & ~wanted, _conflicts(contested, makers), tuple(fixed))


def _computed_weights(
    space: PruningSpace, masks: Mapping[int, NDArray[np.bool_]]
) -> Iterator[tuple[tuple[int, int], Role]]:
    """Masked weights that no product takes as they are (standardised, scaled): their masks are wishes all the same."""
    known = {uid for uid, _ in space.roles}
    for uid in masks.keys() - known:
        for axis, labels in enumerate(space.axes(uid)):
            if len(space.program.values[uid].shape) > 1 and masks[uid].shape[axis] > 1 and labels.any():
                yield (uid, axis), Role("makes", labels)


def scattered(space: PruningSpace, uid: int, mask: NDArray[np.bool_]) -> bool:
    """Whether a mask is fine-grained: scattered zeros, which are no wish to drop a channel even where a row is empty.

    A structured mask is the product of one vector for each axis; in grouped convolutions, of vectors for each group.
    """
    value = space.program.values[uid]
    grouped = any(array.shape[0] > 1 for array in space.axes(uid)[1:])
    if mask.ndim < 2 or mask.shape != value.shape or grouped:
        return False
    box = np.ones_like(mask)
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        box &= mask.any(axis=others, keepdims=True)
    return not np.array_equal(box, mask)


def _dead_classes(labels: LabelArray, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The classes of which the mask leaves no entry."""
    single = tuple(axis for axis, size in enumerate(labels.shape) if size == 1)
    alive = mask.any(axis=single, keepdims=True)  # an entry lives where any entry under its label does
    full = np.broadcast_shapes(labels.shape, alive.shape)
    return np.setdiff1d(labels, np.broadcast_to(labels, full)[np.broadcast_to(alive, full)])


def _fixed_wishes(
    space: PruningSpace, layer: str, labels: LabelArray, mask: NDArray[np.bool_], axis: int
) -> list[Restored]:
    """Channels that were asked for although nothing can remove them."""
    others = tuple(other for other in range(mask.ndim) if other != axis)
    dead = ~mask.any(axis=others)
    if labels.size not in (1, dead.size) or dead.size == 1:
        return []
    count = int((dead & (np.broadcast_to(labels.ravel(), dead.shape) == 0)).sum())
    return [Restored((layer,), count, space.frozen(layer) or "its channels cannot be removed")] if count else []


def _conflicts(contested: NDArray[np.bool_], makers: Mapping[str, NDArray[np.int64]]) -> tuple[Restored, ...]:
    """Contested classes, gathered by the set of layers that share them."""
    sharing: dict[int, list[str]] = {}
    for layer, present in makers.items():
        for label in present[contested[present]].tolist():
            sharing.setdefault(label, []).append(layer)
    counts = Counter(tuple(layers) for layers in sharing.values() if len(layers) > 1)
    why = "the layers share these channels, and not all of them were asked to drop them"
    return tuple(Restored(layers, count, why) for layers, count in counts.items())
