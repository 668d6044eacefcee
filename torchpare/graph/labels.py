"""Labels: which indices live and die together.

A *label* is an integer; equal classes of labels are removed together or not at all. Label 0 is never removed. A class
is an *atom* (its removal is a free decision) or a *composite*: removed when any of its components is removed. Channel
``g*I + i`` of a grouped convolution, for example, is removed when its group ``g`` is, or when slot ``i`` of that group
is: a composite of two atoms.

Laws:
    a class has at most one definition, and never reaches itself through it;
    a frozen class stays frozen, and so does everything later united with it;
    a composite is never removed by itself, only by one of its atoms.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["LabelArray", "LabelStore"]

LabelArray = NDArray[np.int64]


class LabelStore:
    """A union-find over labels, vectorised, with definitions, and with a reason for every freeze."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self._frozen = np.ones(1, dtype=bool)
        self._reason = np.full(1, -1, dtype=np.int64)
        self._size = 1
        self._definitions: dict[int, frozenset[int]] = {}
        self._composites: dict[frozenset[int], int] = {}
        self._reasons: list[str] = []

    # -- making and looking up ---------------------------------------------------------------------------------------

    def fresh(self, shape: int | tuple[int, ...]) -> LabelArray:
        """New atoms, one for each element."""
        count = int(np.prod(shape))
        while self._size + count > len(self._parent):
            extra = max(len(self._parent), count, 1024)
            self._parent = np.concatenate([self._parent, np.arange(extra) + len(self._parent)])
            self._frozen = np.concatenate([self._frozen, np.zeros(extra, dtype=bool)])
            self._reason = np.concatenate([self._reason, np.full(extra, -1)])
        labels = np.arange(self._size, self._size + count, dtype=np.int64).reshape(shape)
        self._size += count
        return labels

    def roots(self, labels: LabelArray) -> LabelArray:
        """The representative of each label's class; frozen classes keep their own (see `find`)."""
        found = self._parent[labels]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def find(self, labels: LabelArray) -> LabelArray:
        """The representative of each label's class, 0 where it is frozen."""
        found = self.roots(labels)
        return np.where(self._frozen[found], 0, found)

    def atoms(self, label: int) -> frozenset[int]:
        """The atoms whose removal removes ``label``: itself for an atom, none where it is frozen."""
        root = self._root(label)
        if self._frozen[root]:
            return frozenset()
        definition = self._definitions.get(root)
        if definition is None:
            return frozenset((root,))
        return frozenset(atom for component in definition for atom in self.atoms(component))

    def _root(self, label: int) -> int:
        """`roots` of a single label; walking is faster than numpy for one."""
        parent = self._parent
        above = parent.item(label)
        while above != label:
            label, above = above, parent.item(above)
        return label

    def canonical(self, labels: LabelArray) -> LabelArray:
        """Like `find`, and composites that are one and the same class share one label."""
        found = self.find(labels)
        if not self._definitions:
            return found
        unique, inverse = np.unique(found, return_inverse=True)
        mapped = np.array([self._canonical_root(root) for root in unique.tolist()], dtype=np.int64)
        return mapped[inverse].reshape(found.shape)

    def _canonical_root(self, label: int) -> int:
        root = self._root(label)
        if self._frozen[root]:
            return 0
        return self._composite(self.atoms(root), root) if root in self._definitions else root

    def _composite(self, atoms: frozenset[int], candidate: int | None = None) -> int:
        """The one label that stands for these atoms: the ``candidate`` (or a new one) where there is none yet."""
        if len(atoms) <= 1:
            return next(iter(atoms), 0)
        known = self._composites.get(atoms)
        if known is None or self.atoms(known) != atoms:
            known = int(self.fresh(1)[0]) if candidate is None else candidate
            if candidate is None:
                self._definitions[known] = atoms
            self._composites[atoms] = known
        return known

    def composites(self) -> tuple[LabelArray, LabelArray]:
        """Every composite paired with each of its atoms, as two equally long arrays."""
        pairs = [(root, atom) for root in self._definitions for atom in self.atoms(root)]
        table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return self.find(table[:, 0]), table[:, 1]

    def __len__(self) -> int:
        return self._size

    def composed(self) -> bool:
        """Whether any label is a composite."""
        return bool(self._definitions)

    # -- deciding ----------------------------------------------------------------------------------------------------

    def freeze(self, labels: LabelArray, why: str) -> None:
        """Forbid the removal of every label; the first reason given is the one that is kept."""
        found = np.unique(self.find(labels))
        found = found[found != 0]
        if not found.size:
            return
        reason = self._note(why)
        for root in found if self._definitions else ():
            for atom in self.atoms(int(root)):
                self._frozen[atom], self._reason[atom] = True, reason
        self._frozen[found], self._reason[found] = True, reason

    def unify(self, left: LabelArray, right: LabelArray, why: str) -> None:
        """Make the labels of two arrays (broadcast against each other) live and die together."""
        left, right = np.broadcast_arrays(left, right)
        a, b = self.roots(left).ravel(), self.roots(right).ravel()
        differ = a != b
        if not differ.any():
            return
        a, b = self._unique_pairs(a[differ], b[differ])
        # What meets label 0 is frozen but not joined to it, so that each class keeps its own reason.
        fixed = (a == 0) | (b == 0)
        if fixed.any():
            self.freeze(np.where(a == 0, b, a)[fixed], why)
            a, b = a[~fixed], b[~fixed]
        if self._definitions and any(int(root) in self._definitions for root in np.concatenate([a, b])):
            for x, y in zip(a.tolist(), b.tolist(), strict=True):
                self._unify_classes(x, y, why)
        elif a.size:
            self._join(a, b)

    def _unique_pairs(self, a: LabelArray, b: LabelArray) -> tuple[LabelArray, LabelArray]:
        """Each unordered pair once; one number a pair sorts far faster than rows do."""
        keys = np.unique(np.minimum(a, b) * self._size + np.maximum(a, b))
        return keys // self._size, keys % self._size

    def _join(self, a: LabelArray, b: LabelArray) -> None:
        """Unite pairs of atoms: hook the larger root below the smaller until nothing differs."""
        touched = np.concatenate([a, b])
        frozen = touched[self._frozen[touched]]
        while True:
            a, b = self.roots(a), self.roots(b)
            differ = a != b
            if not differ.any():
                break
            a, b = a[differ], b[differ]
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))
        if frozen.size:
            united = self.roots(frozen)
            self._frozen[united] = True
            unexplained = self._reason[united] < 0
            self._reason[united[unexplained]] = self._reason[frozen[unexplained]]

    def _unify_classes(self, x: int, y: int, why: str) -> None:
        x, y = self._canonical_root(x), self._canonical_root(y)
        if x == y:
            return
        if x == 0 or y == 0:
            self.freeze(np.asarray([x, y]), why)
            return
        left, right = self.atoms(x), self.atoms(y)
        if len(left) == 1 and len(right) == 1:
            self._join(np.asarray([x]), np.asarray([y]))
        elif left < right or right < left:  # x = x or r holds only if r is never removed
            self.freeze(np.asarray(sorted(left ^ right)), why)
        elif len(left) == 1 or len(right) == 1:
            atom, parts = (x, right) if len(left) == 1 else (y, left)
            self._definitions[atom] = parts
        else:
            mine, theirs = sorted(left - right), sorted(right - left)
            if len(mine) == len(theirs):
                self._pairwise(mine, theirs, why)
            else:
                self._pairwise([mine[0]] * len(theirs), theirs, why)
                self._pairwise(mine[1:], [mine[0]] * (len(mine) - 1), why)

    def define(self, labels: LabelArray, parts: list[LabelArray], why: str) -> None:
        """Make each label the composite of the atoms at its place in ``parts`` (arrays broadcast against it)."""
        grid = [np.broadcast_to(part, labels.shape).ravel().tolist() for part in parts]
        roots = self.find(labels).ravel()
        unique, counts = np.unique(roots, return_counts=True)
        single = set(unique[counts == 1].tolist()) - {0} - self._definitions.keys()
        for root, *atoms in zip(roots.tolist(), *grid, strict=True):
            if root in single:  # the common case: an atom that gets its first definition
                self._definitions[root] = frozenset(atoms)
            else:
                self._unify_classes(root, self._composite(frozenset(atoms)), why)

    def _pairwise(self, left: list[int], right: list[int], why: str) -> None:
        for x, y in zip(left, right, strict=True):
            self._unify_classes(x, y, why)

    def either(self, left: LabelArray, right: LabelArray) -> LabelArray:
        """Labels that are removed when the one or the other is (arrays broadcast against each other)."""
        left, right = np.broadcast_arrays(self.find(left), self.find(right))
        if not left.any():
            return right.copy()
        if not right.any():
            return left.copy()
        simple = (left == 0) | (right == 0) | (left == right)
        result = np.where(left == 0, right, left)
        if not simple.all():
            keys, inverse = np.unique(left[~simple] * self._size + right[~simple], return_inverse=True)
            pairs = zip((keys // self._size).tolist(), (keys % self._size).tolist(), strict=True)
            joined = [self._composite(self.atoms(x) | self.atoms(y)) for x, y in pairs]
            result[~simple] = np.array(joined, dtype=np.int64)[inverse.ravel()]
        return result

    # -- explaining --------------------------------------------------------------------------------------------------

    def _note(self, why: str) -> int:
        if not self._reasons or self._reasons[-1] != why:
            self._reasons.append(why)
        return len(self._reasons) - 1

    def reasons(self, labels: Iterable[int] | LabelArray) -> list[str]:
        """Why the frozen ones among these labels are frozen, each reason once."""
        found = np.unique(self.roots(np.asarray(labels, dtype=np.int64)))
        numbers = self._reason[found[self._frozen[found]]]
        return [self._reasons[number] for number in np.unique(numbers) if number >= 0]
