"""A removal that was decided on one recording, carried over to another one of the same model.

A model is analysed on the meta device where that suffices, and there some layers are other operators than on the CPU
(attention is one operator here and a dozen there). What both recordings share are the parameters and buffers, by name:
what goes of them says what goes of everything else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from torchpare.graph import PruningSpace, Removal

__all__ = ["box_of", "carry_over", "shape_of"]


def carry_over(removal: Removal, space: PruningSpace) -> NDArray[np.bool_] | str:
    """By class id of ``space``, whether it goes; or the name of a tensor of which ``space`` would take something else.

    Args:
        removal: a decision about another analysis of the same model.
        space: the analysis to carry it over to.
    """
    gone, stays = np.zeros(space.size, dtype=bool), np.zeros(space.size, dtype=bool)
    for name, value in space.values.items():
        known = removal.space.values.get(name)
        if known is None:  # a bias that the shrink added
            continue
        for labels, kept in zip(space.axes(value.uid), removal.kept_axes(known.uid), strict=True):
            classes, keeps = np.broadcast_arrays(space.canonical(labels), kept)
            gone[classes[~keeps]] = True
            stays[classes[keeps]] = True
    # A decision that shows in no parameter by itself (a head of a fused projection) was taken if all that it takes
    # along goes. Where two decisions explain the same, it makes no difference to what is left.
    whole, atom = space.composites
    spared = stays.copy()
    spared[atom[stays[whole]]] = True
    taken = gone.copy()
    taken[atom[gone[whole]]] = True
    taken &= ~spared
    taken[whole] = False
    result = taken.copy()
    result[whole[taken[atom]]] = True
    for name, value in space.values.items():
        if name not in removal.space.values:
            continue
        found = box_of(space, result, value.uid)
        expected = box_of(removal.space, removal.gone, removal.space.values[name].uid)
        if (found != expected).any():
            return name
    return result


def box_of(space: PruningSpace, gone: NDArray[np.bool_], uid: int) -> NDArray[np.bool_]:
    """Which elements of a value stay, broadcastable to its shape."""
    box = np.ones((1,) * len(space.program.values[uid].shape), dtype=bool)
    for labels in space.axes(uid):
        box = box & ~gone[space.canonical(labels)]
    return box


def shape_of(space: PruningSpace, gone: NDArray[np.bool_], uid: int) -> tuple[int, ...]:
    """The shape of what stays: along each axis equally many, wherever any stay at all."""
    sizes = []
    for axis, (labels, size) in enumerate(zip(space.axes(uid), space.program.values[uid].shape, strict=True)):
        kept = np.broadcast_to(~gone[space.canonical(labels)], (*labels.shape[:axis], size, *labels.shape[axis + 1 :]))
        sizes.append(int(kept.sum(axis=axis).max(initial=0)))
    return tuple(sizes)
