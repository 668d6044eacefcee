"""What removed channels still carry to readers that are no layers of torch: found in the run under the given masks.

A mask of a convolution leaves the shift of the batch norm after it. Where a `torch.nn` layer reads that, `constants`
moves it into a bias. A recurrent layer, a linear layer written by hand, a convolution whose weight is computed: these
read it by operators alone. Each such product is computed twice here, with and without what goes; where that makes a
difference to what stays, the function changes by nature, and the report says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from torchpare.graph import Removal
from torchpare.graph.program import Op, Ref
from torchpare.speedup.constants import reads_input
from torchpare.speedup.patches import Kept, Patch, Patches, keyed, without

__all__ = ["find_watches"]

_ROUNDING = 1e-12
_READS: dict[str, tuple[tuple[int, int], ...]] = {
    **dict.fromkeys(("aten.mm", "aten.bmm", "aten.mv", "aten.dot"), ((0, -1), (1, -2))),
    **dict.fromkeys(("aten.addmm", "aten.baddbmm", "aten.addmv"), ((1, -1), (2, -2))),
    **dict.fromkeys(("aten.linear", "aten.mkldnn_linear"), ((0, -1),)),
    "aten.convolution": ((0, 1), (0, 2), (0, 3), (0, 4)),
    "aten._trilinear": ((0, -1), (2, -1)),
}
"""By operator, the (argument, axis) that it sums over."""


def find_watches(removal: Removal, model: nn.Module) -> Patches:
    """Watches for a run under masks, one for each product that sums over channels that go.

    They change nothing of what the run computes; afterwards `Patches.loud` tells where such channels contributed.

    Args:
        removal: what goes.
        model: its layers of `torch.nn`, whose inputs are looked at as a whole, are left out.
    """
    watches = Patches()
    modules = dict(model.named_modules(remove_duplicate=False))
    for op, key, calls in keyed(removal.space.program):
        lost = _lost_inputs(op, removal, modules)
        if lost:
            kept = [mask for mask in removal.kept_axes(op.outputs[0]) if not mask.all()]
            watches.by_key[key], watches.numbers[key] = _watch(lost, kept, watches, key[:2]), calls
    return watches


def _lost_inputs(op: Op, removal: Removal, modules: dict[str, nn.Module]) -> dict[int, Kept]:
    """By argument of an operator, what is kept of the channels it sums over, where some go."""
    space = removal.space
    places = _READS.get(op.name, ())
    for ref in op.inputs if places else ():
        parameter = space.parameter_of(ref.uid)
        if parameter is not None:
            path, _, key = space.program.values[parameter].names[0].rpartition(".")
            if reads_input(modules.get(path), key):
                places = places[1:] if op.name == "aten.convolution" else ()  # but of its channels, not of space
    found = {}
    for place, axis in places:
        ref = op.args[place]
        assert isinstance(ref, Ref)
        masks = removal.kept_axes(ref.uid)
        mask = masks[max(axis, -len(masks))] if axis < len(masks) else np.ones(1, dtype=bool)
        if not mask.all() and space.parameter_of(ref.uid) is None:
            found[place] = mask & found.get(place, True)
    return found


def _watch(lost: dict[int, Kept], kept: list[Kept], watches: Patches, place: tuple[str, str]) -> Patch:
    def patch(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        cleaned = [without(value, [lost[at]]) if at in lost else value for at, value in enumerate(args)]
        if any(bool((cleaned[at] != args[at]).any()) for at in lost):
            stays: Tensor = without(result, kept)
            change = (without(func(*cleaned, **kwargs), kept) - stays).abs().max()
            if not change <= _ROUNDING * stays.abs().max():
                watches.loud[place] = max(watches.loud.get(place, 0), *(int((~mask).sum()) for mask in lost.values()))
        return result

    return patch
