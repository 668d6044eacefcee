"""Numbers that the model's code worked out of a size where nobody could see it.

``1.0 / x.shape[-1]``, ``int(0.5 * n)``, ``numpy.sqrt(n)``: the number no longer knows that it was a size, and in the
small model it is another one. The proof fails then, or the small model does not run. Both runs, laid beside each other,
show the first operator that was given another number, or made another shape than planned, or the first place where the
small model went another way; the axes that shrank there are the ones that the code counts, and must stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from torchpare.errors import ProofError, ShrinkError
from torchpare.graph import Removal
from torchpare.graph.capture import capture_until_failure
from torchpare.graph.program import Op, Program, Ref
from torchpare.speedup.verify.sequence import canonical_name

__all__ = ["LostNumberError", "LostSizeError", "axes_behind_numbers"]

_FILLS = frozenset(
    f"aten.{name}" for name in ("full", "new_full", "full_like", "fill", "fill_", "masked_fill", "masked_fill_")
)
"""Operators that are not pointwise and take a whole number that is no size."""

_POWERS = 4  # of a size, by halves of which a number may follow it: n ** 0.5, 1.0 / n, n * n

_Number = tuple[float, float]
"""What the dense model computed with, and the small one."""


class LostSizeError(ShrinkError):
    """The small model does not run, for its code works a number out of a size.

    Attributes:
        variables: of the space's sizing: what would have to keep everything.
    """

    def __init__(self, message: str, variables: frozenset[int]) -> None:
        super().__init__(message)
        self.variables = variables


class LostNumberError(LostSizeError, ProofError):
    """The small model runs and differs, for the same reason."""


def axes_behind_numbers(small_model: nn.Module, example_inputs: Any, removal: Removal) -> frozenset[int]:
    """The variables of the axes that shrank where the small model first does something else than planned.

    Args:
        small_model: the model after the shrink; it is not changed.
        example_inputs: what the dense model was analysed with.
        removal: what was removed.

    Returns:
        variables of the space's sizing; none where both runs do the same with the same numbers.
    """
    dense = removal.space.program
    try:
        small = capture_until_failure(small_model, example_inputs, dense)
    except Exception:  # noqa: BLE001 - asked while an error is being told, which must not be hidden by another
        return frozenset()
    for op, other in zip(_loud(dense), _loud(small), strict=False):
        if _name(op) != _name(other):
            return _shrunk(op, removal, None)
        changed = [pair for pair in _numbers(op, other, dense, small) if pair[0] != pair[1]]
        if changed:
            return _shrunk(op, removal, changed[0])
        planned = [removal.shape(uid) for uid in op.outputs]
        if planned != [small.values[uid].shape for uid in other.outputs]:
            return _shrunk(op, removal, None)
    return frozenset()


def _loud(program: Program) -> list[Op]:
    return [op for op in program.ops if canonical_name(op.name) is not None]


def _name(op: Op) -> tuple[str | None, str]:
    return canonical_name(op.name), op.module


def _numbers(op: Op, other: Op, dense: Program, small: Program) -> Iterator[_Number]:
    """The numbers that two calls of an operator were given, beside each other, without sizes and positions."""
    kinds = (int, float) if op.pointwise or op.name in _FILLS else (float,)
    ours, theirs = [*op.args, *op.kwargs.values()], [*other.args, *other.kwargs.values()]
    for left, right in zip(ours, theirs, strict=False):
        if isinstance(left, Ref) and isinstance(right, Ref):
            yield from _constants(dense.constants.get(left.uid), small.constants.get(right.uid))
        elif isinstance(left, kinds) and isinstance(right, kinds):
            yield float(left), float(right)


def _constants(left: Tensor | None, right: Tensor | None) -> Iterator[_Number]:
    """Tensors of one number that the code made out of it."""
    if left is None or right is None or left.numel() != 1 or right.numel() != 1 or left.is_meta or right.is_meta:
        return
    if not (left.is_complex() or right.is_complex()):
        yield float(left), float(right)


def _shrunk(op: Op, removal: Removal, number: _Number | None) -> frozenset[int]:
    """The variables of the nearest axes around an operator that shrank: before it, or after it if none did before."""
    ops = removal.space.program.ops
    sources: dict[int, list[int]] = {}
    readers: dict[int, list[int]] = {}
    for each in ops:
        read = [ref.uid for ref in each.inputs]
        for uid in each.outputs:
            sources.setdefault(uid, []).extend(read)
        for uid in read:
            readers.setdefault(uid, []).extend((*each.outputs, *read))
    start = [*op.outputs, *(ref.uid for ref in op.inputs)]
    return _nearest(start, sources, removal, number) or _nearest(start, readers, removal, number)


def _nearest(
    level: list[int], beyond: Mapping[int, list[int]], removal: Removal, number: _Number | None
) -> frozenset[int]:
    """The variables of the first axes that explain the number; if none does, of the first that shrank."""
    seen, nearest = set[int](), frozenset[int]()
    while level:
        axes = [axis for uid in level for axis in _shrunk_axes(uid, removal)]
        fitting = [axis for axis in axes if number is None or _follows(number, *axis[2:])]
        if fitting:
            return _variables(removal, fitting)
        nearest = nearest or _variables(removal, axes)
        seen.update(level)
        level = [uid for uid in dict.fromkeys(far for uid in level for far in beyond.get(uid, ())) if uid not in seen]
    return nearest


def _shrunk_axes(uid: int, removal: Removal) -> Iterator[tuple[int, int, int, int]]:
    """(uid, axis, size before, size after) of each axis of a value that shrank."""
    sizes = zip(removal.space.program.values[uid].shape, removal.shape(uid), strict=True)
    for axis, (before, after) in enumerate(sizes):
        if before != after:
            yield uid, axis, before, after


def _variables(removal: Removal, axes: list[tuple[int, int, int, int]]) -> frozenset[int]:
    space = removal.space
    return frozenset(variable for uid, axis, *_ in axes for variable in space.sizing.variables(space.axes(uid)[axis]))


def _follows(number: _Number, before: int, after: int) -> bool:
    """Whether a number changed as a power of a size does, or by as much as the size."""
    old, new = number
    if math.isclose(new - old, after - before):
        return True
    if not old or not new or (old < 0) != (new < 0) or not after:
        return False
    halves = 2 * math.log(new / old) / math.log(after / before)
    return 0 < abs(round(halves)) <= 2 * _POWERS and math.isclose(halves, round(halves), abs_tol=1e-6)
