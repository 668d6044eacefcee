"""What the example inputs do not reach, but is built like its reached neighbours: experts that no token was sent to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from torchpare.graph.flow import Flow, LabelArray
from torchpare.graph.program import Value

__all__ = ["follow_siblings"]

Family = Mapping[str, Value]
"""The parameters of a module by their names inside it."""


@dataclass(frozen=True)
class _Lost:
    """A module of a numbered list that nothing reached, with what is read of those beside it that something did."""

    path: str
    own: Family
    reached: Mapping[str, Family]


def follow_siblings(flow: Flow) -> None:
    """Let unreached modules lose what their reached siblings lose, so that they still fit when an input reaches them.

    Where the siblings that were reached read and make the very same channels, so does one that was not: it shrinks in
    step with the first of them. Where that cannot be told, what the siblings read and make stays.
    """
    unread = set(flow.program.unreached())
    if not unread:
        return
    for lost in _lost_modules(flow, unread):
        families = list(lost.reached.values())
        shared = _shared_axes(flow, lost, unread)
        rows = [[_labels(flow, family[name], axis) for name, axis in shared] for family in families]
        if (len(families) > 1 and all(_same(row, rows[0]) for row in rows[1:])) or _is_one_stream(rows[0]):
            sibling = next(iter(lost.reached))
            for name, value in families[0].items():
                _imitate(flow, lost.own[name], value)
            flow.followed[lost.path] = sibling
            continue
        why = f"module '{lost.path}' may read it, which the example inputs do not reach"
        for family in families:
            for name, axis in shared:
                flow.store.freeze(flow.axes[family[name].uid][axis], why)


def _lost_modules(flow: Flow, unread: set[str]) -> Iterator[_Lost]:
    values = {value.names[0]: value for value in flow.program.values if value.kind == "parameter"}
    done: set[str] = set()
    for name in sorted(unread):
        if name in done:
            continue
        for number in reversed(list(re.finditer(r"(?<![^._])\d+(?=\.)", name))):
            path, prefix = name[: number.end()], name[: number.start()]
            own = _family(values, path)
            if not own.keys() <= {other.removeprefix(f"{path}.") for other in unread}:
                break  # only parts of it are unreached
            pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.")
            beside = {f"{prefix}{found[1]}" for other in values if (found := pattern.match(other))}
            read = {
                other: {key: value for key, value in family.items() if f"{other}.{key}" not in unread}
                for other in sorted(beside - {path})
                if _alike(family := _family(values, other), own)
            }
            most = max(read.values(), key=len, default={}).keys()  # what none reads is a parameter without use
            reached = {other: family for other, family in read.items() if family.keys() == most} if most else {}
            if reached:
                done |= {f"{path}.{key}" for key in own}
                yield _Lost(path, own, reached)
                break


def _family(values: Mapping[str, Value], path: str) -> dict[str, Value]:
    return {name.removeprefix(f"{path}."): value for name, value in values.items() if name.startswith(f"{path}.")}


def _alike(one: Family, other: Family) -> bool:
    return {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}


def _labels(flow: Flow, value: Value, axis: int) -> LabelArray:
    return flow.store.canonical(flow.axes[value.uid][axis])


def _shared_axes(flow: Flow, lost: _Lost, unread: set[str]) -> list[tuple[str, int]]:
    """The axes along which siblings meet the rest of the model: whose labels something outside each of them has too."""
    mine = {value.uid for value in next(iter(lost.reached.values())).values()}
    outside: set[int] = set()
    for uid, arrays in flow.axes.items():
        value = flow.program.values[uid]
        if value.kind == "parameter" and uid not in mine and value.names[0] not in unread:
            for array in arrays:
                outside.update(np.unique(flow.store.canonical(array)).tolist())
    first = next(iter(lost.reached.values()))
    return [
        (name, axis)
        for name, value in first.items()
        for axis in range(len(value.shape))
        if (set(np.unique(_labels(flow, value, axis)).tolist()) - {0}) & outside
    ]


def _same(one: list[LabelArray], other: list[LabelArray]) -> bool:
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _is_one_stream(rows: list[LabelArray]) -> bool:
    """Whether all that a module reads and makes is one set of channels: a residual stream."""
    return len(rows) > 1 and all(np.array_equal(row.ravel(), rows[0].ravel()) for row in rows)


def _imitate(flow: Flow, value: Value, sibling: Value) -> None:
    flow.axes[value.uid] = list(flow.axes[sibling.uid])
    for axis in range(len(value.shape)):
        role = flow.roles.get((sibling.uid, axis))
        if role is not None:
            flow.roles[value.uid, axis] = role
        source = flow.sources.get((sibling.uid, axis))
        if source is not None:
            flow.sources[value.uid, axis] = list(source)
        if (sibling.uid, axis) in flow.unmasked:
            flow.unmasked.add((value.uid, axis))
    if sibling.uid in flow.channels:
        flow.channels[value.uid] = flow.channels[sibling.uid]
