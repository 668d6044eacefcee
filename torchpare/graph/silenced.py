"""Layers whose channels a batch norm silences: masked scale and shift ask for the filters in front of them, too.

Network slimming (Liu et al., ICCV 2017) masks norms and no convolution. After such a norm a channel is zero whatever
its filter makes, so the filter can go, if nobody else reads what it makes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from torchpare.graph.program import Op, Ref
from torchpare.graph.rules.norms import CHANNEL_NORMS

if TYPE_CHECKING:
    from torchpare.graph.space import PruningSpace

__all__ = ["silenced_classes"]


def silenced_classes(space: PruningSpace, masks: dict[int, NDArray[np.bool_]]) -> dict[int, NDArray[np.int64]]:
    """By the uid of a parameter that makes channels, the classes of those that the norm after it takes away.

    Args:
        space: the analysis of the model.
        masks: by the uid of their parameter.
    """
    program = space.program
    uses = Counter(ref.uid for op in program.ops for ref in op.inputs) + Counter(program.outputs)
    maker = {uid: op for op in program.ops for uid in op.outputs}
    users = Counter(space.parameter_of(ref.uid) for op in program.ops if not _shows(space, op) for ref in op.inputs)
    found: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
    for op in program.ops:
        if op.name.removeprefix("aten.") not in CHANNEL_NORMS or not isinstance(op.args[0], Ref):
            continue
        kept = _kept(op, masks)
        x = op.args[0].uid
        if kept is None or uses[x] > 1 or x not in maker:
            continue
        labels = np.broadcast_to(space.canonical(space.axes(x)[1]).ravel(), kept.shape)
        dead = np.setdiff1d(labels[~kept], labels[kept])
        for ref in maker[x].inputs:
            parameter = space.parameter_of(ref.uid)
            if parameter is not None:
                found[parameter].append(dead)
    # A layer that runs several times loses what every norm after it takes away.
    return {
        parameter: reduce(np.intersect1d, dead) for parameter, dead in found.items() if len(dead) == users[parameter]
    }


def _shows(space: PruningSpace, op: Op) -> bool:
    """Whether an operator only turns a parameter's axes, for others to use."""
    return bool(op.outputs) and all(space.shows_parameter(uid) for uid in op.outputs)


def _kept(op: Op, masks: dict[int, NDArray[np.bool_]]) -> NDArray[np.bool_] | None:
    """The channels of which a norm keeps the scale or the shift; None where it keeps all."""
    scale, shift = op.args[1:3]
    if not isinstance(scale, Ref) or scale.uid not in masks or (isinstance(shift, Ref) and shift.uid not in masks):
        return None
    kept = masks[scale.uid]
    return kept | masks[shift.uid] if isinstance(shift, Ref) else kept
