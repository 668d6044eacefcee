"""How labels ride on values: the bench at which every operator rule works.

A value of rank r carries r label arrays, each of rank r. Array j has the value's size on axis j, and on every other
axis the value's size or 1. A size above 1 on another axis k says that *which* j-indices survive depends on the
k-index (a *dependent* axis: the input slots of a grouped convolution's weight depend on the group). An axis along which
nothing can be removed has size 1 and label 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from torchpare.graph.labels import LabelArray, LabelStore
from torchpare.graph.program import Op, Program, Ref, Scale
from torchpare.graph.sizes import Const, Expr

__all__ = ["Equation", "Flow", "Note", "Role", "along"]

Axes = list[LabelArray]


@dataclass(frozen=True)
class Role:
    """An axis of a parameter that makes or reads channels; ``labels`` broadcast against the parameter."""

    kind: Literal["makes", "reads"]
    labels: LabelArray


@dataclass(frozen=True)
class Equation:
    """The number of kept entries of ``labels`` must equal ``expr``."""

    labels: LabelArray
    expr: Expr
    site: str


@dataclass(frozen=True)
class Note:
    """A place where removing a channel changes the function by nature, if one of ``labels`` is removed."""

    kind: str
    labels: LabelArray
    module: str
    site: str


@dataclass
class Flow:
    """Labels of every value, and what the rules found out on the way."""

    program: Program
    aligned: list[tuple[LabelArray, int]] = field(default_factory=list)
    """Labels of axes whose length an operator wants to be a multiple of a number."""
    followed: dict[str, str] = field(default_factory=dict)
    """By path of a module that the run did not reach, the sibling in step with which it shrinks."""
    free_literals: bool = False
    """Whether sizes that are written as numbers hold nothing back, because the code will not run them again."""
    literals: list[tuple[int, str]] = field(default_factory=list)
    """Sizes that are written as numbers where channels lie, with where."""
    store: LabelStore = field(default_factory=LabelStore)
    axes: dict[int, Axes] = field(default_factory=dict)
    """Label arrays of each value, by uid."""
    roles: dict[tuple[int, int], Role] = field(default_factory=dict)
    """Which (parameter uid, axis) makes channels, and which reads them."""
    sources: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """The values from which each (parameter uid, axis) reads channels."""
    levels: list[tuple[LabelArray, LabelArray]] = field(default_factory=list)
    """(labels of an axis, labels of an axis inside it): groups and their slots, heads and their widths."""
    unmasked: set[tuple[int, int]] = field(default_factory=set)
    """(parameter uid, axis) that must not be masked, because another parameter silences the channel."""
    other_readers: list[LabelArray] = field(default_factory=list)
    """Labels of channels that something without a parameter takes in: a sum or mean over them."""
    channels: dict[int, LabelArray] = field(default_factory=dict)
    """The labels of the channels that a parameter makes, in order, by parameter uid."""
    equations: list[Equation] = field(default_factory=list)
    equal_counts: list[tuple[LabelArray, str]] = field(default_factory=list)
    """Arrays of shape (rows, n), with the reason: every row must keep equally many, vanished rows left aside."""
    comparisons: dict[tuple[Expr, Expr, bool], str] = field(default_factory=dict)
    """Pairs of expressions that must stay equal, or unequal, with where."""
    scale_makers: list[tuple[Scale, list[Any]]] = field(default_factory=list)
    """Scales worked out of sizes, each with the parameters that can make up for another one."""
    notes: list[Note] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    """Operators without a rule, with the first place where each was met."""
    free_axes: dict[int, frozenset[int]] = field(default_factory=dict)
    """By uid, along which axes something may go: asked when all is labelled (see `torchpare.graph.zeros`)."""
    turned: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    """Transposed parameters that nothing has read yet: by uid, that of the parameter and the order of its axes."""
    origin: dict[int, tuple[int, tuple[int | None, ...]]] = field(default_factory=dict)
    """Values that are a parameter seen otherwise: uid -> (parameter uid, its axis for each of ours or None)."""

    # -- reading -----------------------------------------------------------------------------------------------------

    def shape(self, ref: Ref | int) -> tuple[int, ...]:
        """The recorded shape of a value."""
        return self.program.values[ref.uid if isinstance(ref, Ref) else ref].shape

    def labels(self, ref: Ref | int) -> Axes:
        """The label arrays of a value. Parameters and buffers get theirs when first met; constants are fixed."""
        uid = ref.uid if isinstance(ref, Ref) else ref
        known = self.axes.get(uid)
        return self._first_met(uid, {}) if known is None else known

    def _first_met(self, uid: int, given: Mapping[int, LabelArray]) -> Axes:
        if uid in self.turned:
            return self._turn(uid, given)
        value = self.program.values[uid]
        if value.kind == "parameter":
            self.origin[uid] = (uid, tuple(range(len(value.shape))))
        own = value.kind in ("parameter", "buffer") and not value.sparse
        self.axes[uid] = self.new(value.shape, given) if own else self.fixed(value.shape)
        return self.axes[uid]

    def _turn(self, uid: int, given: Mapping[int, LabelArray]) -> Axes:
        """The labels of a transposed parameter; it is the parameter itself that takes those that are ``given``."""
        parameter, order = self.turned.pop(uid)
        if parameter not in self.axes:
            back = np.argsort(order)
            self._first_met(parameter, {order[axis]: array.transpose(back) for axis, array in given.items()})
        self.define(uid, [self.axes[parameter][axis].transpose(order) for axis in order])
        return self.axes[uid]

    def vector(self, ref: Ref | int, axis: int, why: str) -> LabelArray:
        """The labels of one axis as a plain vector; where they depend on other axes, they are tied over those."""
        row, size = self.tied(ref, axis, why).reshape(-1), self.shape(ref)[axis]
        return row if len(row) == size else np.broadcast_to(row, (size,))

    def tied(self, ref: Ref | int, axis: int, why: str, *, depends: Sequence[int] = ()) -> LabelArray:
        """The label array of one axis, tied over every other axis that is not in ``depends``."""
        array = self.labels(ref)[axis]
        for other in range(array.ndim):
            if other != axis and other not in depends and array.shape[other] > 1:
                first = np.take(array, [0], axis=other)
                self.store.unify(first, array, why)
                array = first
        return array

    def shows_parameter(self, ref: Ref | int) -> bool:
        """Whether a value is a parameter, or one seen otherwise (transposed, expanded)."""
        self.labels(ref)
        return (ref.uid if isinstance(ref, Ref) else ref) in self.origin

    # -- making ------------------------------------------------------------------------------------------------------

    def fixed(self, shape: Sequence[int]) -> Axes:
        """Label arrays of a value nothing of which can be removed."""
        return [np.zeros((1,) * len(shape), dtype=np.int64) for _ in shape]

    def new(self, shape: Sequence[int], given: Mapping[int, LabelArray] | None = None) -> Axes:
        """Label arrays with a free label for every index of every axis longer than 1 for which none are ``given``."""
        rank, axes = len(shape), self.fixed(shape)
        for axis, size in enumerate(shape):
            if size > 1:
                known = (given or {}).get(axis)
                axes[axis] = along(self.store.fresh(size), axis, rank) if known is None else known
        return axes

    def follow(self, ref: Ref, labels: Mapping[int, LabelArray], why: str) -> None:
        """Make axes of a value live and die with these labels, arrays of its rank by axis.

        Most parameters and buffers are first met here, and need no labels of their own to be united with them.
        """
        if ref.uid not in self.axes:
            self._first_met(ref.uid, labels)
        for axis, array in labels.items():
            own = self.axes[ref.uid][axis]
            if own is not array:
                self.store.unify(own, array, why)

    def define(self, uid: int, axes: Iterable[LabelArray]) -> None:
        """Give a value its label arrays. An axis of size 1 always carries label 0."""
        if uid in self.turned:  # written to before anything has read it
            self.labels(uid)
        shape = self.shape(uid)
        arrays = list(axes)
        if len(arrays) != len(shape):
            message = f"a rule gave {len(arrays)} label arrays to a value of rank {len(shape)}"
            raise AssertionError(message)
        for axis, array in enumerate(arrays):
            if shape[axis] <= 1:
                arrays[axis] = np.zeros((1,) * len(shape), dtype=np.int64)
            elif array.ndim != len(shape) or array.shape[axis] not in (1, shape[axis]):
                message = f"a rule gave labels of shape {array.shape} to axis {axis} of a value of shape {shape}"
                raise AssertionError(message)
            elif array.size > array.shape[axis]:
                arrays[axis] = self._independent(array, axis)
        if uid in self.axes and any(size > 1 for size in shape):  # written in place: both describe the same memory
            for old, array in zip(self.axes[uid], arrays, strict=True):
                self.store.unify(old, array, "written in place")
        else:
            self.axes[uid] = arrays

    def _independent(self, array: LabelArray, axis: int) -> LabelArray:
        """The label array of an axis with size 1 on every other axis on which nothing depends any more."""
        classes = self.store.find(array)
        for other in range(array.ndim):
            if other != axis and array.shape[other] > 1:
                first = classes.take([0], axis=other)
                if (classes == first).all():
                    classes, array = first, array.take([0], axis=other)
        return array

    # -- deciding ----------------------------------------------------------------------------------------------------

    def freeze(self, ref: Ref | int, axis: int, why: str) -> None:
        """Forbid removal along one axis of a value."""
        self.store.freeze(self.labels(ref)[axis], why)

    def freeze_all(self, op: Op, why: str) -> None:
        """Forbid removal along every axis of everything the operator reads, and fix what it writes."""
        for ref in op.inputs:
            for axis in range(len(self.shape(ref))):
                self.freeze(ref, axis, why)
        for uid in op.outputs:
            if uid not in self.axes:
                self.define(uid, self.fixed(self.shape(uid)))

    def require(self, labels: LabelArray, expr: Expr, op: Op, what: str, *, size: int | None = None) -> None:
        """Demand that as many of ``labels`` are kept as ``expr`` says. A number written in the source freezes them.

        ``size`` is the length of an axis whose label array may have size 1, because nothing of it can go: then the
        attributes in ``expr`` must not follow anything else either.
        """
        if isinstance(expr, Const):
            if labels.any() and (expr.value, op.where) not in self.literals:
                self.literals.append((expr.value, op.where))
            if not self.free_literals:
                self.store.freeze(labels, f"{what} is written as the number {expr.value} in {op.where}")
        else:
            row = labels.reshape(-1)
            self.equations.append(Equation(np.broadcast_to(row, (size or row.size,)), expr, op.where))

    def require_axis(self, labels: LabelArray, axis: int, expr: Expr, op: Op, size: int) -> None:
        """`require` of an axis of ``size`` entries, given its whole label array: each of its rows is as long."""
        if isinstance(expr, Const):
            self.require(labels, expr, op, "a size")
        else:
            self.require(
                np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])[0], expr, op, "a size", size=size
            )

    def pin(self, expr: Expr, value: int, op: Op) -> None:
        """Demand that an expression keeps its value, whatever goes."""
        if not isinstance(expr, Const):
            self.comparisons[expr, Const(value), True] = op.where

    def equal(self, rows: LabelArray, why: str) -> None:
        """Demand that every row of an array of shape (rows, n) keeps equally many."""
        if len(rows) > 1:
            self.equal_counts.append((rows, why))

    def reads(self, ref: Ref, axis: int, source: Ref, labels: LabelArray | None = None) -> None:
        """Note that an axis of a parameter (seen directly or with its axes permuted) reads channels of ``source``."""
        parameter = self._role("reads", ref, axis, labels)
        if parameter is not None:
            own = self.origin[ref.uid][1][axis]
            assert own is not None
            self.sources.setdefault((parameter, own), []).append(source.uid)

    def makes(self, ref: Ref, axis: int, channels: LabelArray, labels: LabelArray | None = None) -> None:
        """Note that an axis of a parameter (seen directly or with its axes permuted) makes these channels."""
        parameter = self._role("makes", ref, axis, labels)
        if parameter is not None:
            self.channels.setdefault(parameter, channels)

    def _role(self, kind: Literal["makes", "reads"], ref: Ref, axis: int, labels: LabelArray | None) -> int | None:
        self.labels(ref)
        origin = self.origin.get(ref.uid)
        if origin is None:
            return None
        parameter, axes = origin
        own = axes[axis]
        if own is None:
            return None
        known = self.roles.get((parameter, own))
        if known is None or known.kind == "reads":  # a tied parameter may make here and read there: then it makes
            self.roles[parameter, own] = Role(kind, self.axes[parameter][own] if labels is None else labels)
        return parameter

    def note(self, kind: str, labels: LabelArray, op: Op) -> None:
        """Report that the function changes by nature here, should one of ``labels`` be removed."""
        if labels.any():
            self.notes.append(Note(kind, labels, op.module, op.site))

    def split(
        self,
        vector: LabelArray,
        sizes: Sequence[int],
        literal: Sequence[bool],
        why: str,
        *,
        inward: bool = False,
    ) -> Axes:
        """Label arrays, each over all of ``sizes``, for a vector that is reshaped to ``sizes``.

        Where the vector varies along one of the new axes only, that axis carries it. Otherwise each axis gets its own
        labels, dependent on the axes before it, and the vector becomes the composite of them. A ``literal`` axis (one
        whose size is a number in the source) can lose nothing, so that the others carry all.
        """
        rank = len(sizes)
        store = self.store
        zero = np.zeros((1,) * rank, dtype=np.int64)
        axes = [zero] * rank
        long = [axis for axis, size in enumerate(sizes) if size > 1]
        if len(long) == 1:
            axes[long[0]] = vector.reshape(tuple(sizes))
            return axes
        grid = store.canonical(vector).reshape(tuple(sizes))
        owned: set[int] = set()
        for part in self._parts(grid):
            varying = [axis for axis in range(rank) if not _constant(part, axis)]
            candidates = [axis for axis in varying if not literal[axis]]
            unowned = [axis for axis in candidates if axis not in owned]
            compact = _squeeze(part, varying)
            if not part.any():
                continue
            if not candidates:
                store.freeze(part, why)
            elif len(candidates) == 1 or len(unowned) <= 1:
                axis = (candidates if inward else unowned or candidates)[-1]
                axes[axis] = store.either(axes[axis], compact)
                self._count_rows(compact, axis, why)
                owned.add(axis)
            else:
                made = []
                for axis in candidates:
                    before = [other for other in varying if other <= axis]
                    labels = store.fresh(tuple(size if a in before else 1 for a, size in enumerate(sizes)))
                    axes[axis] = store.either(axes[axis], labels)
                    made.append(labels)
                    self._count_rows(labels, axis, why)
                store.define(compact, made, why)
                owned.update(candidates)
        self.nest(axes)
        return axes

    def nest(self, axes: Sequence[LabelArray]) -> None:
        """Note that each of several axes that are one in memory holds those after it: groups their slots, say."""
        present = [array for array in axes if array.any()]
        self.levels.extend((outer, inner) for at, outer in enumerate(present) for inner in present[at + 1 :])

    def _parts(self, grid: LabelArray) -> list[LabelArray]:
        """The components of composites as grids of their own, the simplest first; else the grid itself."""
        if not self.store.composed():
            return [grid]
        unique, inverse = np.unique(grid, return_inverse=True)
        table = self.store.parts(unique)
        if table.shape[1] == 1 or not table.all():
            return [grid]
        parts = [column[inverse].reshape(grid.shape) for column in table.T]
        return sorted(parts, key=lambda part: sum(not _constant(part, axis) for axis in range(part.ndim)))

    def _count_rows(self, labels: LabelArray, axis: int, why: str) -> None:
        """Every row of a dependent array must keep equally many."""
        self.equal(np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis]), f"every row must stay equal in {why}")


def along(vector: LabelArray, axis: int, rank: int) -> LabelArray:
    """A vector as an array of ``rank`` axes, lying along ``axis``."""
    shape = [1] * rank
    shape[axis] = -1
    return np.asarray(vector).reshape(shape)


def _constant(array: LabelArray, axis: int) -> bool:
    return bool((array == np.take(array, [0], axis=axis)).all())


def _squeeze(array: LabelArray, varying: Sequence[int]) -> LabelArray:
    """The array with size 1 on every axis along which it is constant."""
    return array[tuple(slice(None) if axis in varying else slice(0, 1) for axis in range(array.ndim))]
