"""What kind of structure a group of channels is: told from the operators that meet it, never from module classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from torchpare.graph.program import Op, Ref
from torchpare.graph.space import PruningSpace

__all__ = ["EXPERTS", "LAYERS", "STRUCTURES", "Group", "groups_of"]

STRUCTURES: Final[Mapping[str, str]] = {
    "channels": "output channels of convolutions, with everything that shares them",
    "mlp": "widths between linear layers: the inside of an MLP, of a gate, of a classifier",
    "embedding": "the width that runs through all blocks of a transformer (its residual stream)",
    "heads": "whole attention heads (of grouped-query attention: a key-value head with its queries)",
    "head_dim": "the width of every head: of its queries and keys, and of its values",
    "groups": "whole groups of grouped convolutions",
    "hidden": "the state of recurrent layers",
    "experts": "whole experts of a mixture; behind a router that picks the best of them, not part of ``all``",
    "experts_width": "the width inside the experts of a mixture",
    "layers": "whole blocks of a stack, by how little they change what passes through; not part of ``all``",
}
"""The words for ``structures`` in a config_list, with what they stand for."""

LAYERS: Final = "layers"
EXPERTS: Final = "experts"
_BATCHED = frozenset({"aten.bmm", "aten.baddbmm"})


@dataclass
class Group:
    """Channels that are chosen among each other: one variable of the sizing.

    Attributes:
        variable: its number.
        size: how many there are (in each row, where rows choose for themselves).
        rows: how many rows choose for themselves but keep equally many: heads, groups of a convolution.
        kind: one of `STRUCTURES`.
        members: (parameter, axis) that lose something with it, in the order of the model.
        layers: the layers that make these channels.
    """

    variable: int
    size: int
    rows: int
    kind: str = ""
    members: list[tuple[str, int]] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    makers: set[int] = field(default_factory=set)
    readers: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The first layer that makes these channels, or the first parameter that has them."""
        return next(iter(self.layers), next((name for name, _ in self.members), f"group {self.variable}"))


def groups_of(space: PruningSpace) -> list[Group]:
    """Every group of channels from which something can go, in the order of the model."""
    sizing = space.sizing
    groups = {
        variable: Group(variable, size, len(sizing.members(variable)))
        for variable, size in sizing.size.items()
        if variable not in sizing.fixed
    }
    finder = _Kinds(space)
    for value in space.program.values:
        if value.kind not in ("parameter", "buffer"):
            continue
        for axis, labels in enumerate(space.axes(value.uid)):
            for variable in sizing.variables(labels) & groups.keys():
                groups[variable].members.append((value.names[0], axis))
                role = space.roles.get((value.uid, axis))
                if role is not None and role.kind == "makes":
                    groups[variable].makers.add(value.uid)
                    layer = space.layer_of(value.uid)
                    if layer not in groups[variable].layers:
                        groups[variable].layers.append(layer)
                elif role is not None:
                    groups[variable].readers.add(value.uid)
    parameters = {name for name, value in space.values.items() if value.kind == "parameter"}
    found = [
        group
        for group in groups.values()
        if group.size > 1 and any(name in parameters for name, _ in group.members)  # not tables of positions alone
    ]
    found.sort(key=lambda group: space.values[group.members[0][0]].uid)
    for group in found:
        group.kind = finder.kind(group)
    return found


class _Kinds:
    """Looks once through the program for attention, recurrence and experts."""

    def __init__(self, space: PruningSpace) -> None:
        self.space = space

    @cached_property
    def _attended(self) -> tuple[frozenset[int], frozenset[int]]:
        """Variables along the batch axis of products of activations (heads), and along their other axes (widths)."""
        heads: set[int] = set()
        widths: set[int] = set()
        for op in self.space.program.ops:
            operands = self._operands(op)
            for ref in operands:
                axes = self.space.axes(ref.uid)
                for axis, labels in enumerate(axes):
                    if labels.any():
                        (widths if axis >= len(axes) - 2 else heads).update(self.space.sizing.variables(labels))
        return frozenset(heads), frozenset(widths)

    def _operands(self, op: Op) -> list[Ref]:
        """The activations that a product of activations multiplies; none for other operators."""
        if op.name in _BATCHED:
            refs = [argument for argument in op.args if isinstance(argument, Ref)][-2:]
            return refs if all(self._is_activation(ref) for ref in refs) else []
        if "scaled_dot_product" in op.name:
            return [argument for argument in op.args[:3] if isinstance(argument, Ref)]
        return []

    def _is_activation(self, ref: Ref) -> bool:
        return self.space.program.values[ref.uid].kind == "temporary" and not self.space.shows_parameter(ref.uid)

    @cached_property
    def _recurrent(self) -> frozenset[int]:
        """Variables that one layer both makes and reads: a state that is fed back."""
        made: dict[str, set[int]] = {}
        read: dict[str, set[int]] = {}
        for (uid, _), role in self.space.roles.items():
            layer = self.space.layer_of(uid)
            (made if role.kind == "makes" else read).setdefault(layer, set()).update(
                self.space.sizing.variables(role.labels)
            )
        return frozenset(v for layer, own in made.items() for v in own & read.get(layer, set()))

    def kind(self, group: Group) -> str:  # noqa: PLR0911 - a line for each kind
        """The word for a group; the last ones are told by the ranks of the parameters that make it."""
        widths = self._attended[1]
        sizing, values = self.space.sizing, self.space.program.values
        ranks = {len(values[uid].shape) for uid in group.makers if len(values[uid].shape) > 1}
        if self._is_stacked(group):
            stacked = {axis for name, axis in group.members if len(self.space.values[name].shape) == 3}
            return "experts" if stacked == {0} else "experts_width"
        if group.variable in self._heads:
            return "heads"
        if group.variable in sizing.inner and group.variable in widths:
            return "head_dim"
        if group.variable in sizing.outer and ranks and max(ranks) >= 3:
            return "groups"
        if self._is_stream(group):
            return "embedding"
        if group.variable in self._recurrent and group.variable not in sizing.inner and max(ranks, default=0) == 2:
            return "hidden"
        return "channels" if ranks and max(ranks) >= 3 else "mlp"

    @cached_property
    def _used_by(self) -> Mapping[str, frozenset[int]]:
        """By operator, the uids of the parameters it is given."""
        found: dict[str, set[int]] = {}
        for op in self.space.program.ops:
            found.setdefault(op.name, set()).update(ref.uid for ref in op.inputs)
        return {name: frozenset(uids) for name, uids in found.items()}

    def _is_stacked(self, group: Group) -> bool:
        """Whether it lies in weights of shape (experts, out, in) alone."""
        values = [self.space.values[name] for name, _ in group.members]
        wide = [value for value in values if value.kind == "parameter" and len(value.shape) > 1]
        convolved = self._used_by.get("aten.convolution", frozenset())
        return bool(wide) and all(len(value.shape) == 3 and value.uid not in convolved for value in wide)

    def _is_stream(self, group: Group) -> bool:
        """Whether several layers add to it, and an embedding makes it or those that make heads read it."""
        if len(group.layers) < 2:
            return False
        if group.makers & self._used_by.get("aten.embedding", frozenset()):
            return True
        return bool(group.readers & self._head_makers)

    @cached_property
    def _heads(self) -> frozenset[int]:
        """Variables that are numbers of heads: each takes several channels, whose own number may be fixed."""
        attended, sizing = self._attended[0], self.space.sizing
        found = set(attended & sizing.outer)
        for role in self.space.roles.values():
            new = sizing.variables(role.labels) & attended - found if role.kind == "makes" else None
            if new:
                classes = self.space.canonical(role.labels[role.labels != 0])
                if len(np.unique(classes)) < len(classes):
                    found |= new
        return frozenset(found)

    @cached_property
    def _head_makers(self) -> frozenset[int]:
        """Uids of the parameters that make heads."""
        sizing = self.space.sizing
        return frozenset(
            uid
            for (uid, _), role in self.space.roles.items()
            if role.kind == "makes" and sizing.variables(role.labels) & self._heads
        )
