"""The groups of a plan: what each would lose, and what that saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from torchpare.config.structures import Allocation
from torchpare.graph import PruningSpace, Removal
from torchpare.graph.costs import macs_of, multiplies
from torchpare.graph.removal import spread
from torchpare.graph.structures import Group

__all__ = ["GroupPlan", "MemberPlan", "describe"]


@dataclass(frozen=True)
class MemberPlan:
    """A tensor of a group: its name, the axis along which it loses something, and its shapes in the whole plan."""

    name: str
    axis: int
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class GroupPlan:
    """One group of channels in a plan.

    Attributes:
        kind: its structure, such as ``"heads"``; see `torchpare.graph.structures.STRUCTURES`.
        name: the first layer that makes it.
        layers: all layers that make it.
        members: the tensors that lose something with it.
        rows: how many rows choose for themselves but keep equally many: groups of a convolution, heads.
        before, after: how many there are in each row.
        asked: how many were asked to stay.
        why: what keeps it from losing as many as were asked for, or None.
        parameters_saved, macs_saved: what this group would save if it alone lost its channels.
    """

    kind: str
    name: str
    layers: tuple[str, ...]
    members: tuple[MemberPlan, ...]
    rows: int
    before: int
    after: int
    asked: int
    why: str | None
    parameters_saved: int
    macs_saved: int


def describe(space: PruningSpace, removal: Removal, groups: Sequence[Group], asked: Allocation) -> Iterator[GroupPlan]:
    """The groups of a decision, in the order of ``groups``."""
    why = {item.layers: item.why for item in removal.restored}
    sizing, values = space.sizing, space.program.values
    costly: dict[int, set[int]] = {}
    for place, op in enumerate(space.program.ops):
        if multiplies(op):
            touched = [array for uid in (*op.outputs, *(ref.uid for ref in op.inputs)) for array in space.axes(uid)]
            for variable in set().union(*(sizing.variables(array) for array in touched if array.any())):
                costly.setdefault(variable, set()).add(place)
    for group in groups:
        cells = [sizing.cells[cell] for cell in sizing.members(group.variable)]
        kept = max(int((~removal.gone[cell]).sum()) for cell in cells)
        gone = np.zeros(space.size, dtype=bool)
        for cell in cells:
            gone[cell] = removal.gone[cell]
        alone = Removal(space, spread(space, gone), {}, (), np.zeros(space.size, dtype=bool))
        uids = {space.values[name].uid for name, _ in group.members if space.values[name].kind == "parameter"}
        ops = [space.program.ops[place] for place in sorted(costly.get(group.variable, ()))]
        changed = kept < group.size
        yield GroupPlan(
            kind=group.kind,
            name=group.name,
            layers=tuple(group.layers),
            members=tuple(
                MemberPlan(name, axis, space.values[name].shape, removal.shape(space.values[name].uid))
                for name, axis in group.members
            ),
            rows=group.rows,
            before=group.size,
            after=kept,
            asked=asked.target(group),
            why=_held_by(group, kept, asked, why),
            parameters_saved=sum(prod(values[u].shape) - prod(alone.shape(u)) for u in uids) if changed else 0,
            macs_saved=macs_of(ops, lambda uid: values[uid].shape) - macs_of(ops, alone.shape) if changed else 0,
        )


def _held_by(group: Group, kept: int, asked: Allocation, why: Mapping[tuple[str, ...], str]) -> str | None:
    """What keeps a group from losing as many as were asked for."""
    if kept <= asked.target(group):
        return None
    multiple = asked.round_to.get(group.variable)
    rounded = f"multiples of {multiple} are kept" if multiple is not None else None
    return why.get(tuple(group.layers) or (group.name,), rounded)
