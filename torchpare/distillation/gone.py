"""Channels that are gone from a model, and what that means for what its layers return."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchpare.errors import ConfigError
from torchpare.graph import PruningSpace
from torchpare.graph.removal import spread

__all__ = ["Axes", "Gone", "first_name", "gone_by_record"]

Axes = Sequence[Tensor | None]
"""Kept indices for each axis of a tensor; None where all are kept."""


@dataclass(frozen=True)
class Gone:
    """A model's channels, and which of them are gone."""

    model: nn.Module
    whose: str
    space: PruningSpace
    gone: NDArray[np.bool_]
    known: dict[tuple[str, int], Axes] = field(default_factory=dict)

    def axes(self, layer: str, number: int) -> Axes:
        """Kept indices of the axes of a tensor that a layer returned; worked out once."""
        if (layer, number) not in self.known:
            self.known[layer, number] = self._axes(layer, number)
        return self.known[layer, number]

    def _axes(self, layer: str, number: int) -> Axes:
        name, whose = first_name(self.model, layer), self.whose
        uids = [uid for path, uid in self.space.program.module_outputs if path == name]
        if number >= len(uids):
            raise ConfigError(
                f"the {whose}'s layer '{layer}' returned {len(uids)} tensors when its channels were followed, in "
                f"evaluation mode, and no tensor {number} that could be matched"
            )
        value = self.space.program.values[uids[number]]
        kept = [~self.gone[self.space.canonical(labels)] for labels in self.space.axes(value.uid)]
        whole = [flags.all() or flags.size == flags.shape[axis] for axis, flags in enumerate(kept)]
        found: list[Tensor | None] = []
        for axis, flags in enumerate(kept):
            rows = flags
            for other, its in enumerate(kept):  # what is kept may differ in places that are gone anyway
                if other != axis and whole[other] and its.size > 1 and rows.shape[other] > 1:
                    rows = rows.compress(its.reshape(-1), axis=other)
            rows = np.moveaxis(rows, axis, -1).reshape(-1, rows.shape[axis])
            if (rows != rows[:1]).any():
                raise ConfigError(
                    f"which entries of axis {axis} of the {whose}'s '{layer}' are kept depends on other axes, so they "
                    "cannot be matched; compare a layer before or after it"
                )
            found.append(None if rows.all() else torch.from_numpy(np.flatnonzero(rows[0])))
        return found


def gone_by_record(
    model: nn.Module, space: PruningSpace, kept: Mapping[str, Mapping[int, list[int]]], added: Collection[str]
) -> Gone:
    """What is gone from a teacher, told by the indices that a student keeps of its parameters.

    Args:
        model: the teacher.
        space: its analysis.
        kept: by parameter and axis, counted in the teacher.
        added: parameters that only the student has.

    Raises:
        ConfigError: the student was not shrunk from this teacher.
    """
    gone, stays = np.zeros(space.size, dtype=bool), np.zeros(space.size, dtype=bool)
    for name, axes in kept.items():
        if name not in space.values:
            if name in added:
                continue
            raise ConfigError(f"the student was shrunk from a model with a parameter {name!r}, which the teacher "
                              "lacks; the teacher must be the model before the shrink")  # fmt: skip
        value = space.values[name]
        for axis, indices in axes.items():
            known = axis < len(value.shape)
            size = value.shape[axis] if known else 0
            labels = space.canonical(space.axes(value.uid)[axis] if known else np.zeros(0, dtype=np.int64))
            if labels.size != size or max(indices, default=0) >= size:
                raise ConfigError(
                    f"of {name!r} the student keeps entries along axis {axis} that the teacher's, of shape "
                    f"{value.shape}, does not have; the teacher must be the model before the shrink"
                )
            lost = np.ones(size, dtype=bool)
            lost[indices] = False
            gone[labels.reshape(-1)[lost]] = True
            stays[labels.reshape(-1)[~lost]] = True
    gone = spread(space, _explained(space, gone, stays))
    if gone[0] or (gone & stays)[1:].any():
        raise ConfigError(
            "the student's record of what was kept does not agree with how the teacher's channels hang together; the "
            "teacher must be the model before the shrink"
        )
    return Gone(model, "teacher", space, gone)


def _explained(space: PruningSpace, gone: NDArray[np.bool_], stays: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """By class whether it is gone, of atoms too that no parameter has an axis of: heads of an attention, say.

    What is recorded of a projection are channels, each a slot of a head. The fewest atoms that explain why these are
    gone are gone: a head, and not every slot of it.
    """
    whole, part = space.composites
    told = gone[whole] | stays[whole]
    whole, part = whole[told], part[told]
    of_atom = np.bincount(part, minlength=space.size)
    gone_of_atom = np.bincount(part[gone[whole]], minlength=space.size)
    possible = np.flatnonzero((of_atom > 0) & (of_atom == gone_of_atom) & ~stays)
    gone = gone.copy()
    unexplained = gone[whole] & ~np.isin(whole, whole[gone[part]])
    for atom in possible[np.argsort(-of_atom[possible], kind="stable")].tolist():
        its = np.isin(whole, whole[part == atom])
        if (unexplained & its).any():
            gone[atom] = True
            unexplained &= ~its
    return gone


def first_name(model: nn.Module, layer: str) -> str:
    """The name under which a layer is known that is registered under several."""
    module = model.get_submodule(layer)
    return next(name for name, other in model.named_modules() if other is module)
