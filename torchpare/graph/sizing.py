"""Sizes first: how many channels each part of a model keeps, before anybody asks which.

A *cell* is a maximal set of atoms that occur equally often in the same rows: removing any ``n`` of them has the same
effect on every size in the model, so a cell is one whole number. Cells that must keep equally many (the groups of a
convolution, the heads of an attention) share one *variable*. The length of every axis is then a polynomial in the
variables: ``heads * width`` where a composite label lies along it, ``a + b`` where two pieces are laid end to end.

What the model's code computes about sizes (``view(b, n, self.heads, c // self.heads)``) becomes equations between those
polynomials and the attributes of its modules. `Sizing.solve` finds the whole numbers nearest to what was asked for that
satisfy them all. Keeping everything always does, so there is always an answer; which channels stay is decided
afterwards, cell by cell, and can no longer make a size wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm, prod
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from torchpare.graph.equations import Equality, Polynomial, Side
from torchpare.graph.labels import LabelArray
from torchpare.graph.search import Solution, search
from torchpare.graph.sizes import Attribute, BinaryOp, Const, Dim, Expr

if TYPE_CHECKING:
    from torchpare.graph.space import PruningSpace

__all__ = ["Sizing"]

Composition: TypeAlias = list[tuple[int, int, int, int]]
"""Of a row: (position in composites, number of entries, size of the cell, cell), in order of appearance."""


@dataclass
class Sizing:
    """The cells, variables and equations of a pruning space.

    Attributes:
        cell_of: by class id, the cell of an atom; -1 for what is no atom or can never go.
        cells: the atoms of each cell, in order.
        variable_of: by cell, its variable.
        size: by variable, how many atoms each of its cells has.
        equations: what must hold between numbers of kept atoms and attributes.
        inner: variables of atoms that lie inside others: the slots of a group, the width of a head.
        outer: variables of atoms that hold others: groups, heads.
    """

    space: PruningSpace
    cell_of: NDArray[np.int64] = field(init=False)
    cells: list[LabelArray] = field(init=False)
    variable_of: NDArray[np.int64] = field(init=False)
    size: dict[int, int] = field(init=False)
    equations: list[Equality] = field(init=False)
    inner: frozenset[int] = field(init=False)
    outer: frozenset[int] = field(init=False)
    ties: dict[int, str] = field(init=False, default_factory=dict)
    fixed: dict[int, str] = field(init=False, default_factory=dict)
    """Variables that must keep everything, with the reason."""

    def __post_init__(self) -> None:
        self._parts = _part_table(self.space)
        self.cell_of, self.cells = _cells(self.space, self._parts)
        self.variable_of = np.arange(len(self.cells), dtype=np.int64)
        self._lengths = np.array([len(cell) for cell in self.cells], dtype=np.int64)
        for rows, why in self.space.equal_rows:
            self._tie(rows, why)
        self._variables = self._variable_table()
        first = {int(variable): cell for cell, variable in reversed(list(enumerate(self.variable_of.tolist())))}
        self.size = {variable: len(self.cells[cell]) for variable, cell in first.items()}
        self._polynomials: dict[bytes, Polynomial] = {}
        self._told: dict[int, tuple[LabelArray, frozenset[int]]] = {}
        self.equations = self._dedupe(self._all_equations())
        self.outer, self.inner = self._levels()
        self.aligned: dict[int, int] = {}
        """By variable, what the number kept must be a multiple of, because an operator refuses others."""
        for labels, multiple in self.space.aligned:
            for variable in self.variables(labels):
                self.aligned[variable] = lcm(multiple, self.aligned.get(variable, 1))

    # -- asking ------------------------------------------------------------------------------------------------------

    def variables(self, labels: LabelArray) -> frozenset[int]:
        """The variables that decide how many of these labels stay; the arrays of roles and values are asked often."""
        known = self._told.get(id(labels))
        if known is None:
            known = self._told[id(labels)] = (labels, self._variables_of(labels))  # an id is of who is there
        return known[1]

    def _variables_of(self, labels: LabelArray) -> frozenset[int]:
        if labels.ndim > 1 and len(labels) > 1:
            labels = _without_repeats(labels.reshape(len(labels), -1))
        seen = np.zeros(len(self.cells) + 1, dtype=bool)  # the last place takes the -1 of what is no atom
        seen[self._variables[self.space.canonical(labels)]] = True
        return frozenset(np.flatnonzero(seen[:-1]).tolist())

    def cells_among(self, labels: LabelArray) -> Iterator[tuple[tuple[int, ...], NDArray[np.intp]]]:
        """The cells of a vector of labels: each combination that occurs, with the places where it does."""
        ids = self.space.canonical(labels)
        atoms = np.where(self._parts[ids, :1] >= 0, self._parts[ids], ids[:, None])
        cells = np.sort(np.where(atoms >= 0, self.cell_of[atoms], -1), axis=1)[:, ::-1]
        return _alike(cells)

    def members(self, variable: int) -> list[int]:
        """The cells that share a variable."""
        return np.flatnonzero(self.variable_of == variable).tolist()

    def solve(
        self,
        target: Mapping[int, int],
        lowest: Mapping[int, int] | None = None,
        *,
        first: Sequence[int] = (),
        multiple: Mapping[int, int] | None = None,
        pinned: Collection[Attribute] = (),
    ) -> Solution:
        """Numbers of atoms to keep, as near to ``target`` as the equations allow.

        Args:
            target: by variable; what is not named keeps everything unless an equation makes it follow.
            lowest: the least that a variable may keep; 1 where not named.
            first: variables whose targets come before those of others, in this order.
            multiple: by variable, what the number kept should be a multiple of, where that is possible.
            pinned: attributes that must keep their values.
        """
        lows = {v: self.size[v] if v in self.fixed else (lowest or {}).get(v, 1) for v in self.size}
        wanted = {v: max(lows[v], min(self.size[v], target.get(v, self.size[v]))) for v in self.size}
        originals = self.space.program.attributes
        why = "the code uses it in a way that cannot be followed"
        fixed = [Equality(attribute, Const(originals[attribute]), why, str(attribute)) for attribute in pinned]
        equations = [*self.equations, *fixed]
        return search(self.size, wanted, lows, equations, originals, first=first, multiple=multiple or {})

    # -- rows --------------------------------------------------------------------------------------------------------

    def _variable_table(self) -> NDArray[np.int32]:
        """By class id, the variables of its atoms, in rising order; -1 after them."""
        last = len(self.cells)
        variables = np.append(self.variable_of, last)[self.cell_of]  # of a class without a cell: the last place
        table = np.full(self._parts.shape, -1, dtype=np.int32)
        table[:, 0] = np.where(variables < last, variables, -1)
        composite = np.flatnonzero(self._parts[:, 0] >= 0)
        parts = self._parts[composite]
        inside = np.sort(np.where(parts >= 0, variables[parts], last), axis=1)
        table[composite] = np.where(inside < last, inside, -1)
        return table

    def _composition(self, row: LabelArray) -> Composition:
        """Which cells a row is made of, and in which order they come."""
        found: Composition = []
        for position, atoms in enumerate(self._positions(row)):
            cells = self.cell_of[atoms]
            cells = cells[cells >= 0]
            unique, at, counts = np.unique(cells, return_index=True, return_counts=True)
            for place in np.argsort(at):
                cell = int(unique[place])
                found.append((position, int(counts[place]), len(self.cells[cell]), cell))
        return found

    def _even_cells(self, rows: LabelArray) -> LabelArray | None:
        """By row the cell of its atoms, or of each component of its composites; None where these are several."""
        parts = self._parts[rows]
        if (parts[..., 0] < 0).all():
            cells = self.cell_of[rows][..., None]
        elif (parts >= 0).all():
            cells = self.cell_of[parts]
        else:
            return None
        return None if not cells.size or (cells < 0).any() or (cells != cells[:, :1]).any() else cells[:, 0]

    def _positions(self, row: LabelArray) -> Iterator[LabelArray]:
        """The plain atoms of a row, then the first, second, ... components of its composites."""
        composite = self._parts[row, 0] >= 0
        yield row[~composite & (row > 0)]
        for position in range(self._parts.shape[1]):
            atoms = self._parts[row[composite], position]
            yield atoms[atoms >= 0]

    def _tie(self, rows: LabelArray, why: str) -> None:
        """Give rows that must keep equally many the same variables, cell by cell, where they are built alike."""
        rows = self.space.canonical(rows)
        even = self._even_cells(rows)
        if even is not None:
            lengths = self._lengths[even]
            for column in even[(lengths == lengths[0]).all(axis=1)].T:
                self._share(column, why)
            return
        first, *others = [self._composition(row) for row in rows]
        for other in others:
            if [item[:3] for item in other] == [item[:3] for item in first]:
                for (*_, mine), (*_, theirs) in zip(first, other, strict=True):
                    self._share(np.array([mine, theirs]), why)

    def _share(self, cells: LabelArray, why: str) -> None:
        """Give cells one variable."""
        variables = self.variable_of[cells]
        if (variables != variables[0]).any():
            self.variable_of[np.isin(self.variable_of, variables)] = variables.min()
            self.ties.setdefault(int(variables.min()), why)

    def polynomial(self, labels: LabelArray) -> Polynomial:
        """How many of a row's entries stay, as a polynomial in the variables."""
        row = self.space.canonical(labels).ravel()
        key = row.tobytes()
        if key not in self._polynomials:
            self._polynomials[key] = self._polynomial(row)
        return self._polynomials[key]

    def _polynomials_of(self, rows: LabelArray) -> list[Polynomial]:
        """The polynomials of rows; one for all, where each has the same numbers of atoms of the same variables."""
        ids = self.space.canonical(rows)
        kinds = np.where(ids == 0, -2, self._variables[ids, 0])
        kinds.sort(axis=1)
        alike = (kinds == kinds[0]).all() and (self._parts[ids, 0] < 0).all()
        return [self._polynomial(row) for row in (ids[:1] if alike else ids)]

    def _polynomial(self, row: LabelArray) -> Polynomial:
        terms: dict[tuple[int, ...], int] = {}
        constant = int((row == 0).sum())
        if constant:
            terms[()] = constant
        unique, counts = np.unique(row[row > 0], return_counts=True)
        for key, mine in _alike(self._variables[unique]):
            total, full = int(counts[mine].sum()), prod(self.size[v] for v in key)
            if half := self._of_square(unique[mine], counts[mine], key):
                terms[key] = terms.get(key, 0) + half
                terms[key[:1]] = terms.get(key[:1], 0) - half
                continue
            if total % full or not self._is_even(unique[mine], counts[mine], len(key)):
                for variable in key:  # an axis whose entries no product describes
                    self.fixed.setdefault(variable, "channels of it are mixed in a way that sizes cannot follow")
            terms[key] = terms.get(key, 0) + max(total // full, 1)
        return Polynomial({key: count for key, count in terms.items() if count})

    def _of_square(self, labels: LabelArray, counts: NDArray[np.int64], key: tuple[int, ...]) -> int:
        """How often all k * k - k pairs of k channels of one cell occur in both orders; 0 where these are others."""
        if len(key) != 2 or key[0] != key[1] or (counts % 2).any() or not _each_with_each(labels, self._parts):
            return 0
        atoms = np.unique(self._parts[labels, :2])
        one_cell = len(atoms) == self.size[key[0]] and len(np.unique(self.cell_of[atoms])) == 1
        return int(counts[0]) // 2 if one_cell and (counts == counts[0]).all() else 0

    def _is_even(self, labels: LabelArray, counts: NDArray[np.int64], order: int) -> bool:
        """Whether each atom occurs equally often, so that any of them may go."""
        if order == 1:
            return True  # a cell's atoms occur equally often by definition
        for position in range(order):
            atoms, place = np.unique(self._parts[labels, position], return_inverse=True)
            sums = np.bincount(place, weights=counts)
            cells = self.cell_of[atoms]
            if any(len(np.unique(sums[cells == cell])) > 1 for cell in np.unique(cells)):
                return False
        return True

    # -- equations ---------------------------------------------------------------------------------------------------

    def _all_equations(self) -> Iterator[Equality]:
        for rows, why in self.space.equal_rows:
            polynomials = self._polynomials_of(rows)
            for other in polynomials[1:]:
                if other != polynomials[0]:
                    yield Equality(other, polynomials[0], why, "")
        for equation in self.space.equations:
            what = f"the code computes a size as {equation.expr}"
            yield Equality(self.polynomial(equation.labels), self._resolve(equation.expr), what, equation.site)
        for (left, right, equal), site in self.space.comparisons.items():
            what = f"the code compares {left} with {right}"
            yield Equality(self._resolve(left), self._resolve(right), what, site, equal=equal)

    def _resolve(self, expr: Expr) -> Side:
        """The expression, with the polynomial of each axis it measures."""
        if isinstance(expr, Dim):
            return self.polynomial(self.space.first_row(expr))
        if isinstance(expr, BinaryOp):
            return BinaryOp(expr.symbol, self._resolve(expr.left), self._resolve(expr.right))  # type: ignore[arg-type]
        return expr

    @staticmethod
    def _dedupe(equations: Iterator[Equality]) -> list[Equality]:
        """Each equation once, without those that always hold."""
        seen: dict[tuple[object, object, bool], Equality] = {}
        for equation in equations:
            if equation.left != equation.right and (equation.variables or equation.attributes):
                seen.setdefault((equation.left, equation.right, equation.equal), equation)
        return list(seen.values())

    def _levels(self) -> tuple[frozenset[int], frozenset[int]]:
        outer: set[int] = set()
        inner: set[int] = set()
        for holder, inside in self.space.levels:
            held = self.variables(inside)
            if held:
                outer |= self.variables(holder)
                inner |= held
        return frozenset(outer), frozenset(inner - outer)


def _part_table(space: PruningSpace) -> NDArray[np.int32]:
    """By class id the atoms of a composite, in order; -1 everywhere for what is no composite."""
    whole, part = space.composites
    live = (whole > 0) & (space.canonical(whole) == whole)
    labels, atoms = whole[live], part[live]  # in rising order, each pair once
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    parts = np.full((space.size, int(counts.max(initial=1))), -1, dtype=np.int32)
    parts[labels, np.arange(len(labels)) - np.repeat(first, counts)] = atoms
    return parts


def _alike(keys: NDArray[np.signedinteger]) -> Iterator[tuple[tuple[int, ...], NDArray[np.intp]]]:
    """Each different row of ``keys`` (without the -1 at its end) with the places where it stands, first come first."""
    if not len(keys):
        return
    if (keys == keys[0]).all():
        places = [np.arange(len(keys))]
    else:
        _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        places = [np.flatnonzero(which.ravel() == row) for row in np.argsort(first)]
    for own in places:
        yield tuple(key for key in keys[own[0]].tolist() if key >= 0), own


def _cells(space: PruningSpace, parts: NDArray[np.int32]) -> tuple[NDArray[np.int64], list[LabelArray]]:
    """Cells of atoms with equal signatures: a random number for each row, summed over the atom's entries in it."""
    generator = np.random.default_rng(0)
    signature = np.zeros(space.size, dtype=np.uint64)
    odd = generator.integers(1, 2**63, size=parts.shape[1], dtype=np.uint64) | np.uint64(1)
    composed = bool((parts[:, 0] >= 0).any())
    seen: set[tuple[tuple[int, ...], bytes]] = set()
    for rows in space.all_rows():
        ids = space.canonical(_without_repeats(rows))
        if (key := (ids.shape, ids.tobytes())) in seen:
            continue
        seen.add(key)
        number = np.broadcast_to(generator.integers(1, 2**63, size=(len(ids), 1), dtype=np.uint64), ids.shape)
        if not composed:
            np.add.at(signature, ids, number)
            continue
        plain = parts[ids, 0] < 0
        np.add.at(signature, ids[plain], number[plain])
        places = np.zeros_like(odd) if _each_with_each(ids[~plain], parts) else np.arange(len(odd))
        for position in range(parts.shape[1]):
            atoms = parts[ids, position]
            found = atoms >= 0
            np.add.at(signature, atoms[found], number[found] * odd[places[position]])
    signature[0] = 0
    atoms = np.flatnonzero(signature)
    cell_of = np.full(space.size, -1, dtype=np.int64)
    _, cell = np.unique(signature[atoms], return_inverse=True)
    # Cells in the order of their first atom, so that results do not depend on the random numbers.
    first = np.full(cell.max(initial=-1) + 1, space.size)
    np.minimum.at(first, cell, atoms)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    cell_of[atoms] = rank[cell]
    order = np.argsort(cell_of[atoms], kind="stable")
    atoms, bounds = atoms[order], np.cumsum(np.bincount(cell_of[atoms], minlength=len(first))).tolist()
    return cell_of, [atoms[start:end] for start, end in zip([0, *bounds], bounds, strict=False)]


def _each_with_each(labels: LabelArray, parts: NDArray[np.int32]) -> bool:
    """Whether composites are all the pairs that there are of some atoms: a product of channels with themselves."""
    if len(labels) < 3 or parts.shape[1] < 2:
        return False
    first, second = parts[labels, 0], parts[labels, 1]
    if first.min() < 0 or second.min() < 0 or first.max() < second.min() or (parts[labels, 2:] >= 0).any():
        return False  # the slots of groups, for one, are others than the groups
    pairs = parts[np.unique(labels), :2]
    count = len(np.unique(pairs))
    return len(pairs) == count * (count - 1) // 2


def _without_repeats(rows: LabelArray) -> LabelArray:
    """Rows without those that equal the one before: the filters of a group follow each other, and read the same."""
    return rows if len(rows) < 2 else rows[np.append(True, (rows[1:] != rows[:-1]).any(axis=1))]
