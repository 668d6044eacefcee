"""Whole numbers that satisfy a model's size equations, as near to the wanted ones as they come.

The equations fall into components that share no variable, nearly all of them tiny: the width of a residual, the number
of heads of its attentions and the width of a head, say. Each is searched depth first: numbers near the wanted ones are
tried in turn, and an equation with a single unknown left gives that unknown at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torchpare.graph.equations import Equality, Unknown, Values
from torchpare.graph.sizes import Attribute

__all__ = ["Solution", "search"]

_MOST_STEPS = 20_000  # of one component; what needs more is left as it was


@dataclass
class Solution:
    """How many atoms each variable keeps, what attributes become, and which equations held something back."""

    kept: dict[int, int]
    attributes: dict[Attribute, int]
    stuck: dict[int, Equality] = field(default_factory=dict)
    """Variables that keep everything because no other numbers were found, with an equation that stands in the way."""
    bound: dict[int, Equality] = field(default_factory=dict)
    """Variables that keep another number than was wanted, with an equation that asks for it."""


def search(
    size: Mapping[int, int],
    wanted: Mapping[int, int],
    lowest: Mapping[int, int],
    equations: Sequence[Equality],
    originals: Mapping[Attribute, int],
    *,
    first: Sequence[int] = (),
    multiple: Mapping[int, int] | None = None,
) -> Solution:
    """Solve every component; see the module's words.

    Args:
        size: by variable, the most it can keep.
        wanted: by variable, what it should keep.
        lowest: by variable, the least it may keep.
        equations: what must hold.
        originals: the present value of every attribute.
        first: variables whose wishes come first.
        multiple: by variable, a number whose multiples are preferred.
    """
    solution = Solution({}, {})
    priority = {variable: place for place, variable in enumerate(first)}
    for variables, own in _components(size, equations):
        order = sorted(variables, key=lambda v: (priority.get(v, len(priority)), size[v], v))
        domain = {v: _Domain(lowest[v], size[v], wanted[v], (multiple or {}).get(v, 1)) for v in variables}
        found = _Search(order, domain, own, originals).run() if own else {v: domain[v].best for v in variables}
        if found is None:
            solution.kept.update({v: size[v] for v in variables})
            solution.stuck.update({v: _in_the_way(v, own, wanted, originals) for v in variables if wanted[v] < size[v]})
            continue
        for unknown, value in found.items():
            if isinstance(unknown, Attribute):
                solution.attributes[unknown] = value
            else:
                solution.kept[unknown] = value
                if value != wanted[unknown] and own:
                    solution.bound[unknown] = next(e for e in own if unknown in e.unknowns)
    return solution


def _in_the_way(
    variable: int, own: Sequence[Equality], wanted: Mapping[int, int], originals: Mapping[Attribute, int]
) -> Equality:
    """An equation that the wanted numbers break; preferably one about this variable."""
    values: Values = {**originals, **wanted}
    broken = [equation for equation in own if not equation.holds(values)]
    mine = [equation for equation in broken if variable in equation.unknowns]
    return next(iter(mine or broken or own))


def _components(size: Mapping[int, int], equations: Sequence[Equality]) -> Iterator[tuple[list[int], list[Equality]]]:
    """Variables that equations tie to each other, with those equations."""
    parent: dict[Unknown, Unknown] = {variable: variable for variable in size}

    def root(item: Unknown) -> Unknown:
        while parent.setdefault(item, item) != item:
            parent[item] = item = parent[parent[item]]
        return item

    for equation in equations:
        head, *rest = equation.unknowns
        for other in rest:
            parent[root(other)] = root(head)
    variables: dict[Unknown, list[int]] = {}
    for variable in size:
        variables.setdefault(root(variable), []).append(variable)
    own: dict[Unknown, list[Equality]] = {}
    for equation in equations:
        own.setdefault(root(next(iter(equation.unknowns))), []).append(equation)
    for key, members in variables.items():
        yield members, own.get(key, [])


@dataclass(frozen=True)
class _Domain:
    """The numbers a variable may keep, nearest to the wanted one first."""

    low: int
    high: int
    wanted: int
    multiple: int

    @property
    def best(self) -> int:
        return next(iter(self))

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high

    def __iter__(self) -> Iterator[int]:
        step = self.multiple
        if step > 1 and self.high >= step:
            preferred = [m for m in range(step, self.high + 1, step) if m >= self.low] or []
            if self.high not in preferred:
                preferred.append(self.high)
            yield from sorted(preferred, key=lambda m: (abs(m - self.wanted), -m))
            rest = [v for v in self._nearest() if v not in set(preferred)]
            yield from rest
        else:
            yield from self._nearest()

    def _nearest(self) -> Iterator[int]:
        yield self.wanted
        for distance in range(1, self.high - self.low + 1):
            if self.wanted + distance <= self.high:
                yield self.wanted + distance
            if self.wanted - distance >= self.low:
                yield self.wanted - distance


class _Search:
    """Depth-first search over one component."""

    def __init__(
        self,
        order: Sequence[int],
        domain: Mapping[int, _Domain],
        equations: Sequence[Equality],
        originals: Mapping[Attribute, int],
    ) -> None:
        self.order = order
        self.domain = domain
        self.equations = equations
        self.originals = originals
        self.steps = 0

    def run(self) -> Values | None:
        """All values, or None where nothing but keeping everything was found."""
        return self._descend({})

    def _descend(self, values: Values) -> Values | None:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            return None
        known = self._propagate(values)
        if known is None:
            return None
        variable = next((v for v in self.order if v not in known), None)
        if variable is not None:
            return self._first(known, variable, self.domain[variable])
        attribute = next((a for e in self.equations for a in sorted(e.attributes, key=str) if a not in known), None)
        return known if attribute is None else self._first(known, attribute, self._candidates(attribute, known))

    def _first(self, known: Values, unknown: Unknown, candidates: Iterable[int]) -> Values | None:
        """The first candidate with which all else can be found."""
        for candidate in candidates:
            found = self._descend({**known, unknown: candidate})
            if found is not None or self.steps > _MOST_STEPS:
                return found
        return None

    def _candidates(self, attribute: Attribute, known: Values) -> list[int]:
        """What an attribute may become, first of all what it was; of two in one product, the one stays that."""
        fitting = [
            set(self._fitting(equation, attribute, known))
            for equation in self.equations
            if equation.equal and equation.unknowns - known.keys() == {attribute}
        ]
        original = self.originals[attribute]
        allowed = set.intersection(*fitting) if fitting else {original}
        return sorted(allowed, key=lambda value: (value != original, value))

    def _propagate(self, values: Values) -> Values | None:
        """Fill in what follows; None where an equation cannot hold."""
        known = dict(values)
        pending = list(self.equations)
        while True:
            waiting = []
            for equation in pending:
                unknown = [item for item in equation.unknowns if item not in known]
                if not unknown:
                    if not equation.holds(known):
                        return None
                elif len(unknown) == 1 and equation.equal:
                    answers = self._fitting(equation, unknown[0], known)
                    if not answers:
                        return None
                    if len(answers) == 1:
                        known[unknown[0]] = answers[0]
                    else:
                        waiting.append(equation)
                else:
                    waiting.append(equation)
            if len(waiting) == len(pending):
                return known
            pending = waiting

    def _fitting(self, equation: Equality, unknown: Unknown, known: Values) -> Sequence[int]:
        """The values of ``unknown`` for which an equation holds."""
        if isinstance(unknown, Attribute):
            original = self.originals[unknown]
            allowed: Sequence[int] = range(1, original + 1) if original > 0 else (original,)
        else:
            allowed = range(self.domain[unknown].low, self.domain[unknown].high + 1)
        if not equation.linear:
            return [value for value in allowed if equation.gap({**known, unknown: value}) == 0]
        low = allowed[0]
        at, beside = (equation.gap({**known, unknown: value}) for value in (low, low + 1))
        if at is None or beside is None:
            return ()
        if at == beside:
            return allowed if at == 0 else ()
        answer = low - at // (beside - at)
        return (answer,) if at % (beside - at) == 0 and answer in allowed else ()
