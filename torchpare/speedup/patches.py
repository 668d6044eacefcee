"""The operators that see that channels are gone, and what the reference of the proof runs in their place.

Masks make the weights of a removed channel zero. Two kinds of operators still see that the channel is there: those that
take a mean, a variance or a norm over channels of which some are gone (they divide by fewer), and sums and products of
activations over channels that are not zero although their weights are (a sigmoid makes one half of nothing). In the
reference run these operators see what stays alone. Each such place is named in the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchpare.graph import Removal
from torchpare.graph.program import Op, Program, Ref
from torchpare.graph.reduced import reduced_axes

__all__ = ["Kept", "Patch", "Patches", "find_patches", "keyed", "without"]

Kept: TypeAlias = NDArray[np.bool_]
Key: TypeAlias = "tuple[str, str, tuple[tuple[int, ...], ...], int]"
"""Module path, operator, the shapes of the tensors it takes, and how many of the same there were before it.

Shapes tell apart what one module does with the same operator: torch's own attention multiplies matrices in other places
than the one that is recorded in its stead.
"""
Patch: TypeAlias = Callable[[Any, list[Any], dict[str, Any]], Any]

_PRODUCTS = {
    "aten.mm": (0, 1),
    "aten.bmm": (0, 1),
    "aten.addmm": (1, 2),
    "aten.baddbmm": (1, 2),
    "aten.mv": (0, 1),
    "aten.dot": (0, 1),
}
_MEANS = frozenset({"aten.mean"})
_STATISTICS = frozenset(
    f"aten.{name}"
    for name in (
        *("var", "std", "var_mean", "std_mean", "amax", "amin", "logsumexp", "norm", "linalg_vector_norm"),
        *("max", "min", "aminmax", "any", "all", "count_nonzero", "nansum"),
    )
)
_UNBOUNDED = frozenset(
    f"aten.{name}{suffix}"
    for name in ("div", "reciprocal", "rsqrt", "log", "log2", "log10", "pow", "logit", "atanh", "floor_divide")
    for suffix in ("", "_")
)
"""Operators that make no finite number of a zero, so that a removed channel would spoil what reads it."""
_LAYER_NORMS = frozenset({"aten.native_layer_norm", "aten._fused_rms_norm"})
_BATCH_NORMS = frozenset({"aten.native_batch_norm", "aten._native_batch_norm_legit", "aten._batch_norm_with_update"})
_COMPARED = frozenset(
    f"aten.{name}"
    for name in (
        *("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "binary_cross_entropy"),
        *("binary_cross_entropy_with_logits", "_cdist_forward", "_euclidean_dist"),
    )
)


@dataclass
class Patches:
    """What to run otherwise, by place; and, after a run, where channels that go were not zero in a sum or product."""

    by_key: dict[Key, Patch] = field(default_factory=dict)
    numbers: dict[Key, int] = field(default_factory=dict)
    """How many calls of the operator there were before each in its module, of whatever shapes."""
    met: set[Key] = field(default_factory=set)
    """The places that a run came to."""
    unpatched: set[tuple[str, str]] = field(default_factory=set)
    """(module, operator) of operators that change by nature and could not be told to see what stays alone."""
    loud: dict[tuple[str, str], int] = field(default_factory=dict)
    """(module, operator) of sums and products over removed channels that are not zero: how many channels."""
    spoilt: dict[tuple[str, str], int] = field(default_factory=dict)
    """(module, operator) of what divides removed channels by zero: how many channels."""


def find_patches(removal: Removal, skip: Collection[int] = (), *, spoilt: bool = False) -> Patches:
    """The operators of the recorded program that would see that channels are gone.

    Args:
        removal: what goes.
        skip: places of operators in the program for which the small model makes up.
        spoilt: whether the masked model returns numbers that are not finite: then removed channels that are divided by
            zero are zeros, too.
    """
    patches = Patches()
    for number, (op, key, calls) in enumerate(keyed(removal.space.program)):
        patch = None if number in skip else _patch_of(op, removal, patches)
        if patch is None and spoilt and op.name in _UNBOUNDED:
            lost = [mask for mask in removal.kept_axes(op.outputs[0]) if not mask.all()]
            patch = _finite(lost, patches, key[:2]) if lost else None
        if patch is not None and op.inputs:
            patches.by_key[key], patches.numbers[key] = patch, calls
    return patches


def keyed(program: Program) -> Iterator[tuple[Op, Key, int]]:
    """Every operator of a program, its key, and how many calls of that operator there were before it in its module."""
    counter: Counter[tuple[str, str, tuple[tuple[int, ...], ...]]] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    for op in program.ops:
        place = (op.module, op.name, tuple(program.values[ref.uid].shape for ref in op.inputs))
        yield op, (*place, counter[place]), calls[op.module, op.name]
        counter[place] += 1
        calls[op.module, op.name] += 1


def _patch_of(  # noqa: PLR0911 - a line for each family of operators
    op: Op, removal: Removal, patches: Patches
) -> Patch | None:
    if op.name in _PRODUCTS:
        return _product(op, removal, patches)
    if not op.args or not isinstance(op.args[0], Ref):
        return None
    x = op.args[0]
    rank = len(removal.space.program.values[x.uid].shape)
    kept = removal.kept_axes(x.uid)
    place = (op.module, op.name)
    if op.name == "aten.sum" or op.name in _MEANS or op.name in _STATISTICS:
        if rank == 0:
            return None
        axes, _ = reduced_axes(op, rank, removal.space.program.values[op.outputs[0]].shape)
        touched = [axis for axis in sorted(axes) if not kept[axis].all()]
        if not touched:
            return None
        if op.name in _STATISTICS:
            return _over_kept(kept, touched, patches, place)
        return _summed(kept, touched, patches, place, mean=op.name in _MEANS)
    if op.name in _LAYER_NORMS:
        first = rank - len(op.args[1])
        touched = [axis for axis in range(first, rank) if not kept[axis].all()]
        return _layer_norm(kept, touched, first, patches, place) if touched else None
    if op.name in _COMPARED:
        return _compared(op, removal, patches, place)
    if op.name == "aten.native_group_norm":
        return _group_norm(kept, op.args[6], patches, place)
    if op.name in _BATCH_NORMS and removal.space.program.values[x.uid].shape:
        touched = [axis for axis in range(rank) if axis != 1 and not kept[axis].all()]
        return _over_kept(kept, touched, patches, place, back=True) if touched else None
    return None


def _tensor(mask: Kept, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(mask)).to(like.device)


def without(x: Tensor, masks: Sequence[Kept]) -> Tensor:
    """``x`` with zeros where channels go."""
    for mask in masks:
        x = x.masked_fill(~_tensor(mask, x), 0)
    return x


def _without(x: Tensor, masks: Sequence[Kept], patches: Patches, place: tuple[str, str]) -> Tensor:
    """``x`` with zeros where channels go; what was not zero there is remembered."""
    for mask in masks:
        lost = x.masked_fill(_tensor(mask, x), 0)
        if bool(lost.any()):
            patches.loud[place] = max(patches.loud.get(place, 0), int((~mask).sum()))
        x = without(x, [mask])
    return x


def _finite(kept: Sequence[Kept], patches: Patches, place: tuple[str, str]) -> Patch:
    """The same, with zeros where removed channels are no numbers, such as zero divided by zero."""

    def patch(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        for mask in kept:
            spoilt = ~_tensor(mask, result) & ~result.isfinite()
            if bool(spoilt.any()):
                patches.spoilt[place] = max(patches.spoilt.get(place, 0), int((~mask).sum()))
                result.masked_fill_(spoilt, 0)
        return result

    return patch


def _product(op: Op, removal: Removal, patches: Patches) -> Patch | None:
    """A product of activations: what goes contributes nothing to the sums."""
    left_at, right_at = _PRODUCTS[op.name]
    left, right = op.args[left_at], op.args[right_at]
    space = removal.space
    if space.shows_parameter(left.uid) or space.shows_parameter(right.uid):
        return None  # its rows or columns are masked, or what it reads is zero
    axis = len(space.program.values[left.uid].shape) - 1
    mask = removal.kept_axes(left.uid)[axis]
    other = removal.kept_axes(right.uid)[max(len(space.program.values[right.uid].shape) - 2, 0)]
    if mask.all() and other.all():
        return None
    place = (op.module, op.name)

    def patch(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        quiet = Patches()
        cleaned = _without(args[left_at], [mask], quiet, place)
        also = _without(args[right_at], [other], quiet, place)
        both = func(*[*args[:left_at], cleaned, args[right_at], *args[right_at + 1 :]], **kwargs)
        if quiet.loud and not torch.equal(both, func(*args, **kwargs)):
            patches.loud[place] = max(patches.loud.get(place, 0), *quiet.loud.values())
        args[left_at], args[right_at] = cleaned, also
        return func(*args, **kwargs)

    return patch


def _compared(op: Op, removal: Removal, patches: Patches, place: tuple[str, str]) -> Patch | None:
    """A loss or a distance between tensors: of what stays of them alone."""
    space = removal.space
    shapes = [space.program.values[ref.uid].shape for ref in op.inputs]
    rank = max(map(len, shapes))
    distance = op.name in ("aten._cdist_forward", "aten._euclidean_dist")
    picked: dict[int, NDArray[np.int64] | None] = {}  # by axis, counted from the back
    for ref, shape in zip(op.inputs, shapes, strict=True):
        for axis, mask in enumerate(removal.kept_axes(ref.uid)):
            if not mask.all() and (axis == len(shape) - 1 or not distance):
                picked[axis - len(shape)] = _places(mask, axis)
    if not picked or (not distance and space.program.values[op.outputs[0]].shape == np.broadcast_shapes(*shapes)):
        return None
    places = {axis: found for axis, found in picked.items() if found is not None}
    if len(places) < len(picked):
        patches.unpatched.add(place)
        return None

    def cut(argument: Any) -> Any:
        if not isinstance(argument, Tensor) or argument.dim() > rank:
            return argument
        for axis, stay in places.items():
            if argument.dim() >= -axis and argument.shape[axis] > 1:
                argument = argument.index_select(axis, torch.from_numpy(stay).to(argument.device))
        return argument

    lost = max(shape[axis] - len(stay) for axis, stay in places.items() for shape in shapes if len(shape) >= -axis)
    by_nature = (op.module, op.site) in {(note.module, note.site) for note in space.notes}

    def patch(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        small = func(*map(cut, args), **{key: cut(value) for key, value in kwargs.items()})
        if not by_nature and not torch.allclose(small, func(*args, **kwargs), rtol=1e-6):
            patches.loud[place] = max(patches.loud.get(place, 0), lost)
        return small

    return patch


def _summed(
    kept: Sequence[Kept], touched: Sequence[int], patches: Patches, place: tuple[str, str], *, mean: bool
) -> Patch:
    """A sum, or a mean: over what stays, divided by how many stay."""
    scale = 1.0
    for axis in touched:
        mask = kept[axis]
        rows = np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis])
        scale *= mask.shape[axis] / max(int(rows.sum(axis=1).max()), 1)

    def patch(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        args[0] = _without(args[0], [kept[axis] for axis in touched], Patches() if mean else patches, place)
        return func(*args, **kwargs) * scale if mean else func(*args, **kwargs)

    return patch


def _places(mask: Kept, axis: int) -> NDArray[np.int64] | None:
    """Kept indices along an axis; None where they differ along other axes."""
    rows = np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis])
    return np.flatnonzero(rows[0]) if (rows == rows[0]).all() else None


def _over_kept(
    kept: Sequence[Kept],
    touched: Sequence[int],
    patches: Patches,
    place: tuple[str, str],
    *,
    back: bool = False,
) -> Patch | None:
    """Run on what stays of the touched axes; ``back`` puts zeros where the others were in the first result."""
    picked = {axis: _places(kept[axis], axis) for axis in touched}
    if any(places is None for places in picked.values()):
        patches.unpatched.add(place)
        return None

    def patch(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        x = small = args[0]
        for axis, places in picked.items():
            small = small.index_select(axis, torch.from_numpy(places).to(x.device))
        result = func(*[small, *args[1:]], **kwargs)
        if not back:
            return result
        return (_scattered(result[0], x.shape, picked), *result[1:])

    return patch


def _layer_norm(
    kept: Sequence[Kept], touched: Sequence[int], first: int, patches: Patches, place: tuple[str, str]
) -> Patch | None:
    """A norm over the last axes, taken over what stays of them; zeros where the others were."""
    picked = {axis: _places(kept[axis], axis) for axis in touched}
    if any(places is None for places in picked.values()):
        patches.unpatched.add(place)
        return None

    def cut(tensor: Tensor | None, offset: int) -> Tensor | None:
        if tensor is None:
            return None
        for axis, places in picked.items():
            tensor = tensor.index_select(axis - offset, torch.from_numpy(places).to(tensor.device))
        return tensor

    def patch(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        x = args[0]
        small = cut(x, 0)
        assert small is not None
        parameters = [cut(p, first) if isinstance(p, Tensor) else p for p in args[2:]]
        result = func(small, list(small.shape[first:]), *parameters, **kwargs)
        return (_scattered(result[0], x.shape, picked), *result[1:])

    return patch


def _group_norm(kept: Sequence[Kept], groups: int, patches: Patches, place: tuple[str, str]) -> Patch | None:
    """A norm over groups of channels, taken over what stays, where a group loses a part of them or a place goes."""
    touched = [axis for axis in range(2, len(kept)) if not kept[axis].all()]
    channels = _places(kept[1], 1)
    left = groups
    if channels is not None and not kept[1].all():
        rows = np.isin(np.arange(kept[1].shape[1]), channels).reshape(groups, -1)
        left = int(rows.any(axis=1).sum())
        if touched or len(channels) != left * rows.shape[1]:
            touched.insert(0, 1)
    if not touched:
        return None  # whole groups go, or nothing: all others are what they were
    picked = {axis: _places(kept[axis], axis) for axis in touched}
    if any(places is None for places in picked.values()):
        patches.unpatched.add(place)
        return None

    def patch(func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        small = args[0]
        for axis, places in picked.items():
            small = small.index_select(axis, torch.from_numpy(places).to(small.device))
        affine = [
            p.index_select(0, torch.from_numpy(picked[1]).to(p.device)) if isinstance(p, Tensor) and 1 in picked else p
            for p in args[1:3]
        ]
        sizes = [len(small), small.shape[1], prod(small.shape[2:]), left if 1 in picked else groups]
        result = func(small, *affine, *sizes, *args[7:], **kwargs)
        return (_scattered(result[0], args[0].shape, picked), *result[1:])

    return patch


def _scattered(small: Tensor, shape: Sequence[int], picked: Mapping[int, Any]) -> Tensor:
    """A result at its places in a tensor of zeros of the full shape."""
    for axis, places in picked.items():
        full = small.new_zeros([*small.shape[:axis], shape[axis], *small.shape[axis + 1 :]])
        small = full.index_copy(axis, torch.from_numpy(places).to(small.device), small)
    return small
