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
    """A union-find over labels, vectorised, with definitions, and with a reason for every freeze.

    The components of composites are rows of one table, so that what is asked of many labels is answered for all at
    once: a grouped convolution has thousands of composites.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self._frozen = np.ones(1, dtype=bool)
        self._reason = np.full(1, -1, dtype=np.int32)
        self._size = 1
        self._row = np.full(1, -1, dtype=np.int32)  # by label, where in the table its components are; -1 for an atom
        self._table = np.zeros((0, 2), dtype=np.int64)  # components, filled up with 0
        self._rows = 0
        self._composites: dict[tuple[tuple[int, ...], bytes], LabelArray] = {}
        self._reasons: list[str] = []

    # -- making and looking up ---------------------------------------------------------------------------------------

    def fresh(self, shape: int | tuple[int, ...]) -> LabelArray:
        """New atoms, one for each element."""
        count = int(np.prod(shape))
        while self._size + count > len(self._parent):
            extra = max(len(self._parent) // 4, count, 1024)  # room to spare costs memory
            self._parent = np.concatenate([self._parent, np.arange(extra) + len(self._parent)])
            self._frozen = np.concatenate([self._frozen, np.zeros(extra, dtype=bool)])
            self._reason = np.concatenate([self._reason, np.full(extra, -1, dtype=np.int32)])
            self._row = np.concatenate([self._row, np.full(extra, -1, dtype=np.int32)])
        labels = np.arange(self._size, self._size + count, dtype=np.int64).reshape(shape)
        self._size += count
        return labels

    def roots(self, labels: LabelArray) -> LabelArray:
        """The representative of each label's class; frozen classes keep their own (see `find`)."""
        found, depth = self._parent[labels], 0
        while True:
            above = self._parent[found]
            if (above == found).all():
                break
            found, depth = above, depth + 1
        if depth:  # shorter ways for those who ask next
            self._parent[labels] = found
        return found

    def find(self, labels: LabelArray) -> LabelArray:
        """The representative of each label's class, 0 where it is frozen."""
        found = self.roots(labels)
        return np.where(self._frozen[found], 0, found)

    def atoms(self, label: int) -> frozenset[int]:
        """The atoms whose removal removes ``label``: itself for an atom, none where it is frozen."""
        return frozenset(self.parts(np.array([label]))[0].tolist()) - {0}

    def parts(self, labels: LabelArray) -> LabelArray:
        """`atoms` of every label of a vector, in rising order: a row for each, filled up with 0."""
        found = self.find(labels)
        composite = np.flatnonzero(self._row[found] >= 0)
        if not composite.size:
            return found[:, None]
        inside = self.parts(self._table[self._row[found[composite]]].ravel())
        inside = _distinct(inside.reshape(len(composite), -1))
        parts = np.zeros((len(found), inside.shape[1]), dtype=np.int64)
        parts[:, 0] = found
        parts[composite] = inside
        return parts

    def canonical(self, labels: LabelArray) -> LabelArray:
        """Like `find`, and those of these labels that are one and the same composite share one label."""
        found = self.find(labels)
        composite = self._row[found] >= 0
        if not composite.any():
            return found
        unique, inverse = np.unique(found[composite], return_inverse=True)
        parts = self.parts(unique)
        several = np.flatnonzero((parts > 0).sum(axis=1) > 1)
        classes = parts[:, 0].copy()
        code = parts[several, 0]
        for column in parts[several, 1:].T:
            _, first, code = np.unique(code * self._size + column, return_index=True, return_inverse=True)
            classes[several] = unique[several[first]][code]
        found[composite] = classes[inverse]
        return found

    def _composite(self, parts: LabelArray) -> LabelArray:
        """A label for each row of atoms; the same ones for whoever asks for the same rows again."""
        key = parts.shape, parts.tobytes()
        names = self._composites.get(key)
        if names is not None:
            held, asked = _as_wide(self.parts(names), parts)
            if (held == asked).all():
                return names
        names = self._composites[key] = self.fresh(len(parts))
        self._row[names] = self._append(parts)
        return names

    def _append(self, components: LabelArray) -> LabelArray:
        """Write rows of components into the table; returns their places."""
        width = max(self._table.shape[1], components.shape[1])
        end = self._rows + len(components)
        if end > len(self._table) or width > self._table.shape[1]:
            table = np.zeros((max(end, 2 * len(self._table)), width), dtype=np.int64)
            table[: self._rows, : self._table.shape[1]] = self._table[: self._rows]
            self._table = table
        self._table[self._rows : end, : components.shape[1]] = components
        places = np.arange(self._rows, end)
        self._rows = end
        return places

    def composites(self, classes: LabelArray | None = None) -> tuple[LabelArray, LabelArray]:
        """Every composite paired with each of its atoms, as two equally long arrays.

        ``classes`` is what `canonical` says of every label, where that is known.
        """
        composite = np.flatnonzero(self._row >= 0)
        whole = np.unique(self.canonical(composite) if classes is None else classes[composite])
        parts = self.parts(whole)
        parts[(parts > 0).sum(axis=1) < 2] = 0  # of what others there were, all are frozen: an atom now
        row, column = np.nonzero(parts)
        return whole[row], parts[row, column]

    def __len__(self) -> int:
        return self._size

    def composed(self) -> bool:
        """Whether any label is a composite."""
        return self._rows > 0

    # -- deciding ----------------------------------------------------------------------------------------------------

    def freeze(self, labels: LabelArray, why: str) -> None:
        """Forbid the removal of every label; the first reason given is the one that is kept."""
        if not labels.any():
            return
        found = self.find(labels)
        found = found[found != 0]
        if not found.size:
            return
        if self.composed():
            found = np.append(found, self.parts(found))
            found = found[found != 0]
        self._frozen[found], self._reason[found] = True, self._note(why)

    def unify(self, left: LabelArray, right: LabelArray, why: str) -> None:
        """Make the labels of two arrays (broadcast against each other) live and die together."""
        if left.shape != right.shape:
            left, right = np.broadcast_arrays(left, right)
        a, b = self.roots(left).ravel(), self.roots(right).ravel()
        differ = a != b
        if not differ.any():
            return
        a, b = a[differ], b[differ]
        touched = np.concatenate([a, b])
        if not (self._frozen[touched].any() or (self._row[touched] >= 0).any()):
            self._join(a, b)
            return
        a, b = self._unique_pairs(a, b)
        # What meets label 0 is frozen but not joined to it, so that each class keeps its own reason.
        fixed = (a == 0) | (b == 0)
        if fixed.any():
            self.freeze(np.where(a == 0, b, a)[fixed], why)
            a, b = a[~fixed], b[~fixed]
        if self.composed() and (self._row[np.concatenate([a, b])] >= 0).any():
            self._unify_composites(a, b, why)
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

    def _unify_composites(self, a: LabelArray, b: LabelArray, why: str) -> None:
        """`unify` of pairs some of which are composites: as many at once as do not meddle with each other."""
        while True:
            left, right = _as_wide(self.parts(a), self.parts(b))
            differ = (left != right).any(axis=1)
            a, b, left, right = a[differ], b[differ], left[differ], right[differ]
            if not a.size:
                return
            sizes, others = (left > 0).sum(axis=1), (right > 0).sum(axis=1)
            if (fixed := (sizes == 0) | (others == 0)).any():
                self.freeze(np.concatenate([a[fixed], b[fixed]]), why)
            elif (plain := (sizes == 1) & (others == 1)).any():
                self._join(left[plain, 0], right[plain, 0])
            elif (inside := _within(left, right) | _within(right, left)).any():
                # x = x or r holds only if r is never removed
                self.freeze(_beyond(left, right)[inside], why)
                self.freeze(_beyond(right, left)[inside], why)
            elif (single := (sizes == 1) | (others == 1)).any():
                atoms, first = np.unique(np.where(sizes == 1, left[:, 0], right[:, 0])[single], return_index=True)
                wholes = np.where((sizes == 1)[:, None], right, left)[single][first]
                if np.isin(atoms, wholes).any():
                    self._one_by_one(a, b, why)
                else:
                    self._row[atoms] = self._append(wholes)
                    if len(atoms) == len(a):
                        return
            elif (sizes == others).all() and _apart(left, right):
                self._join(left[left > 0], right[left > 0])
            elif len(a) > 1:
                self._one_by_one(a, b, why)
            else:
                self._join_parts(left, right)

    def _one_by_one(self, a: LabelArray, b: LabelArray, why: str) -> None:
        for place in range(len(a)):
            self._unify_composites(a[place : place + 1], b[place : place + 1], why)

    def _join_parts(self, left: LabelArray, right: LabelArray) -> None:
        """Make one composite of two: what only the one has is paired with what only the other has."""
        mine, theirs = _beyond(left, right), _beyond(right, left)
        mine, theirs = mine[mine > 0], theirs[theirs > 0]
        if len(mine) == len(theirs):
            self._join(mine, theirs)
        else:
            rest = np.concatenate([theirs, mine[1:]])
            self._join(np.full(len(rest), mine[0]), rest)

    def define(self, labels: LabelArray, parts: list[LabelArray], why: str) -> None:
        """Make each label the composite of the atoms at its place in ``parts`` (arrays broadcast against it)."""
        grid = np.stack([np.broadcast_to(part, labels.shape).ravel() for part in parts], axis=1)
        roots = self.find(labels).ravel()
        _, inverse, counts = np.unique(roots, return_inverse=True, return_counts=True)
        new = (counts[inverse] == 1) & (roots != 0) & (self._row[roots] < 0)  # an atom that gets its first definition
        self._row[roots[new]] = self._append(grid[new])
        if not new.all():
            made = self.fresh(int((~new).sum()))
            self._row[made] = self._append(grid[~new])
            self._unify_composites(roots[~new], made, why)

    def either(self, left: LabelArray, right: LabelArray) -> LabelArray:
        """Labels that are removed when the one or the other is (arrays broadcast against each other)."""
        left, right = self.find(left), self.find(right)
        if left.shape != right.shape:
            left, right = np.broadcast_arrays(left, right)
        if not left.any():
            return right.copy()
        if not right.any():
            return left.copy()
        simple = (left == 0) | (right == 0) | (left == right)
        result = np.where(left == 0, right, left)
        if not simple.all():
            keys, inverse = np.unique(left[~simple] * self._size + right[~simple], return_inverse=True)
            both = np.concatenate([self.parts(keys // self._size), self.parts(keys % self._size)], axis=1)
            result[~simple] = self._composite(_distinct(both))[inverse.ravel()]
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


_LAST = np.iinfo(np.int64).max


def _distinct(rows: LabelArray) -> LabelArray:
    """Each row's labels once, in rising order, filled up with 0 to the length that is needed."""
    rows = np.sort(np.where(rows == 0, _LAST, rows), axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = _LAST
    rows.sort(axis=1)
    rows[rows == _LAST] = 0
    return rows[:, : max(1, int(rows.any(axis=0).sum()))]


def _as_wide(left: LabelArray, right: LabelArray) -> tuple[LabelArray, LabelArray]:
    """Two tables of as many rows, the narrower one filled up with 0."""
    width = max(left.shape[1], right.shape[1])
    wide = (np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in (left, right))
    return next(wide), next(wide)


def _beyond(left: LabelArray, right: LabelArray) -> LabelArray:
    """By row, the labels of ``left`` that ``right`` does not have; 0 in place of the others."""
    return np.where((left[:, :, None] == right[:, None, :]).any(axis=2), 0, left)


def _within(left: LabelArray, right: LabelArray) -> NDArray[np.bool_]:
    """By row, whether ``right`` has all labels of ``left``."""
    return (_beyond(left, right) == 0).all(axis=1)


def _apart(left: LabelArray, right: LabelArray) -> bool:
    """Whether no label lies in two columns, so that the columns of all rows can be united at once."""
    columns = [np.unique(column[column > 0]) for column in np.concatenate([left, right]).T]
    return sum(map(len, columns)) == len(np.unique(np.concatenate(columns)))
