"""A shrink, decided: which entries of which tensors stay, and which numbers follow. Pure data, before any knife."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpare.graph import Removal
from torchpare.graph.sizes import Attribute

__all__ = ["Cut", "ShrinkPlan", "make_plan"]

_BLOCK = 2**15  # elements that are copied at once: they stay in the cache, and the heap in one piece


@dataclass(frozen=True)
class Cut:
    """What stays of one tensor.

    ``axes`` holds a bool array for each axis, of the tensor's rank and size 1 wherever nothing varies. The kept
    elements always form a box: for each axis equally many for every kept index of the other axes.
    """

    axes: tuple[NDArray[np.bool_], ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @cached_property
    def changes(self) -> bool:
        """Whether the tensor loses anything."""
        return self.before != self.after

    def indices(self, axis: int) -> list[int] | None:
        """Kept indices along an axis; None where they depend on other axes, as in grouped convolutions."""
        kept = self.axes[axis]
        if kept.shape[axis] == 1:
            return list(range(self.before[axis]))
        return np.flatnonzero(kept).tolist() if kept.size == kept.shape[axis] else None

    def apply(self, tensor: Tensor) -> Tensor:
        """A new tensor with what stays of ``tensor``, in its order and memory format."""
        if not self.changes:
            return tensor
        small = self._apply_box(tensor, self.dependent) if self.dependent else _picked(tensor, self.picks, self.after)
        layout = _memory_format(tensor)
        small = small.contiguous(memory_format=layout)
        # An axis of one entry may have any stride. Those of the other format would decide the format of what a
        # convolution returns, and a view of that could fail.
        usual = torch.empty(small.shape, device="meta", memory_format=layout).stride()
        return small if small.stride() == usual else small.as_strided(small.shape, usual)

    def apply_to_mask(self, mask: Tensor) -> Tensor:
        """What stays of a mask that broadcasts against the tensor; its axes of size 1 stay so where they can."""
        if self.dependent:
            return self.apply(mask.expand(self.before))
        for axis, kept in self.picks.items():
            if mask.shape[axis] > 1:
                mask = mask.index_select(axis, kept.to(mask.device))
        return mask

    @cached_property
    def dependent(self) -> list[int]:
        """The axes along which what stays depends on other axes."""
        return [axis for axis, mask in enumerate(self.axes) if not mask.all() and mask.size != mask.shape[axis]]

    @cached_property
    def picks(self) -> dict[int, Tensor]:
        """Kept indices by axis, of the other axes that lose something."""
        return {
            axis: torch.from_numpy(np.flatnonzero(mask))
            for axis, mask in enumerate(self.axes)
            if not mask.all() and mask.size == mask.shape[axis]
        }

    def _apply_box(self, tensor: Tensor, dependent: list[int]) -> Tensor:
        """Cut axes whose kept indices depend on other axes, which must come first for the order to hold.

        Axes along which nothing varies come last: then what is picked are whole runs of memory.
        """
        box = np.ones((1,) * tensor.dim(), dtype=bool)
        for mask in self.axes:
            box = box if mask.all() else box & mask
        order = sorted(range(tensor.dim()), key=lambda axis: (box.shape[axis] == 1, axis in dependent, axis))
        kept = torch.from_numpy(np.flatnonzero(box.transpose(order))).to(tensor.device)
        runs = tensor.permute(order).reshape(box.size, -1)
        small = runs.index_select(0, kept).reshape([self.after[axis] for axis in order])
        return small.permute([order.index(axis) for axis in range(tensor.dim())])


def _picked(tensor: Tensor, picks: Mapping[int, Tensor], after: tuple[int, ...]) -> Tensor:
    """Kept indices of several axes; of a large tensor block by block, so that nothing between the two is held."""
    picks = {axis: kept.to(tensor.device) for axis, kept in picks.items()}
    if len(picks) == 1 or 0 not in picks or tensor.numel() <= _BLOCK:
        for axis, kept in picks.items():
            tensor = tensor.index_select(axis, kept)
        return tensor
    small = tensor.new_empty(after)
    rows = picks.pop(0).split(max(1, _BLOCK * len(tensor) // tensor.numel()))
    pieces = tensor.new_empty((len(rows[0]), *tensor.shape[1:]))
    *others, last = picks.items()
    for place, block in zip(small.split(len(rows[0])), rows, strict=True):
        piece = torch.index_select(tensor, 0, block, out=pieces[: len(block)])
        for axis, kept in others:
            piece = piece.index_select(axis, kept)
        torch.index_select(piece, *last, out=place)
    return small


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """Channels last where the tensor is laid out so, and not only by chance of its shape."""
    if not tensor.is_contiguous():
        for rank, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if tensor.dim() == rank and tensor.is_contiguous(memory_format=layout):
                return layout
    return torch.contiguous_format


@dataclass(frozen=True)
class ShrinkPlan:
    """What a shrink does to a model.

    Laws: nothing removed means nothing changed; every cut leaves at least one entry on each axis.
    """

    removal: Removal
    cuts: Mapping[str, Cut]
    """By qualified parameter or buffer name (every alias of a tied one), only where something goes."""
    attributes: Mapping[str, Mapping[str, int | list[int]]]
    """New values of module attributes, by module path and name."""

    def describe(self) -> dict[str, Any]:
        """The plan as JSON: shapes before and after, kept indices, attributes."""
        return {
            "tensors": {
                name: {
                    "before": list(cut.before),
                    "after": list(cut.after),
                    "kept": {
                        str(axis): cut.indices(axis) for axis in range(len(cut.before)) if not cut.axes[axis].all()
                    },
                }
                for name, cut in self.cuts.items()
            },
            "attributes": {path: dict(values) for path, values in self.attributes.items()},
        }


def make_plan(removal: Removal) -> ShrinkPlan:
    """Spell a removal out, tensor by tensor."""
    space = removal.space
    cuts: dict[str, Cut] = {}
    made: dict[int, Cut] = {}
    for name, value in space.values.items():
        if value.uid not in made:
            axes = tuple(removal.kept_axes(value.uid))
            made[value.uid] = Cut(axes, value.shape, removal.shape(value.uid))
        if made[value.uid].changes:
            cuts[name] = made[value.uid]
    return ShrinkPlan(removal, cuts, _attribute_values(removal))


def _attribute_values(removal: Removal) -> dict[str, dict[str, int | list[int]]]:
    """Attribute edits by module; an edited element of a tuple brings its unchanged neighbours along."""
    originals = removal.space.program.attributes
    values: dict[str, dict[str, int | list[int]]] = {}
    for attribute, value in removal.attributes.items():
        if originals[attribute] == value:
            continue
        module = values.setdefault(attribute.module, {})
        if attribute.index is None:
            module[attribute.name] = value
            continue
        row = module.setdefault(attribute.name, _row(originals, attribute))
        assert isinstance(row, list)
        row[attribute.index] = value
    return values


def _row(originals: Mapping[Attribute, int], attribute: Attribute) -> list[int]:
    same = [known for known in originals if (known.module, known.name) == (attribute.module, attribute.name)]
    return [originals[known] for known in sorted(same, key=lambda known: known.index or 0)]
