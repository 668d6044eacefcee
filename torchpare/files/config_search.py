"""Which config would make a transformers class build the shapes that a shrunk model has, if any would.

Nothing is known here of any model. The class is built without weights from configs with one field changed; what changes
with the field depends on it. An axis on which one field alone has a say fixes that field; what is left is tried out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice, product
from typing import Any

from torchpare.errors import CheckpointError
from torchpare.files.config_fields import UNSET, Field, dotted, edited, float_fields, size_fields, without_entries
from torchpare.files.config_probes import Build, Probes
from torchpare.files.signature import Place, Signature

__all__ = ["find_configs"]

_Values = dict[Field, Any]
_Score = tuple[float, int, int, int, int]

_TRIES = 400
_OFFERED = 4


def find_configs(
    config: Any, target: Signature, build: Build, *, dropped: Mapping[str, Sequence[int]], sure: Collection[Place]
) -> list[Any]:
    """Configs from which `build` makes the shapes of `target`, those first that give the most of its numbers, too.

    Args:
        config: of the model before it was shrunk, or what the shrink made of it; only read.
        target: what the shrunk model looks like.
        build: makes a model without weights from a config; None where the class does not accept it.
        dropped: blocks that were taken out, by path of their stack.
        sure: numbers that the shrink set, and which must therefore come out right.

    Raises:
        CheckpointError: no config of that class does; names the first tensor that shows it.
    """
    config, base = _with_depth(config, target, build, dropped)
    if not base.different_sizes(target) and not base.different_numbers(target):
        return [config]
    search = _Search(config, base, target, build, frozenset(sure))
    return [edited(config, search.floats(values)) for values in search.ranked()]


def _with_depth(
    config: Any, target: Signature, build: Build, dropped: Mapping[str, Sequence[int]]
) -> tuple[Any, Signature]:
    """The config with as many layers as the model has left."""
    base = build(config)
    if base is None:
        raise CheckpointError("the class cannot be built from the model's present config")
    options = [list(gone) for gone in dropped.values() if gone]
    while base.tensors != target.tensors:
        missing = len(base.tensors ^ target.tensors)
        for field, gone in product(size_fields(config), options):
            value = size_fields(config)[field]
            if type(value) is not int or value <= len(gone):
                continue
            try:
                shorter = without_entries(config, field, gone)
            except Exception:  # noqa: BLE001, S112 - a config that checks what it is given
                continue
            made = build(shorter)
            if made is not None and len(made.tensors ^ target.tensors) < missing:
                config, base = shorter, made
                break
        else:
            name = min(base.tensors ^ target.tensors)
            there, not_there = ("the model", "the class") if name in target.tensors else ("the class", "the model")
            raise CheckpointError(f"{there} has a tensor {name}, and {not_there} built from this config has none")
    return config, base


class _Search:
    """One search: the values to try for each field, and how good what the class builds with them is."""

    def __init__(self, config: Any, base: Signature, target: Signature, build: Build, sure: frozenset[Place]) -> None:
        self.config, self.base, self.target, self.sure = config, base, target, sure
        self.probes = Probes(config, base, build)
        self.fields = self.probes.fields
        self.wrong = base.different_sizes(target)

    def ranked(self) -> list[_Values]:
        """The values with which all shapes come out, the likeliest first; an error if there are none."""
        choices = self._choices()
        fields = sorted(choices, key=lambda field: len(choices[field]))
        scored: list[tuple[_Score, _Values]] = []
        for values in islice(_by_likelihood([choices[field] for field in fields]), _TRIES):
            given = {f: v for f, v in zip(fields, values, strict=True) if v != self.fields[f]}
            scored.append((self._score(given), given))
        scored.sort(key=lambda item: item[0])
        best, values = scored[0]
        if best[0]:
            self._complain(values if best[0] < math.inf else {})
        return [values for score, values in scored if score[:3] == best[:3]][:_OFFERED]

    def floats(self, values: _Values) -> _Values:
        """`values`, and with them fields for numbers with a fraction that the shrink changed: epsilons."""
        made = self.probes.built(values)
        for field, old in float_fields(self.config).items():
            wrong = [] if made is None else made.different_numbers(self.target)
            wanted = {self.target.numbers[place] for place in wrong if made is not None and made.numbers[place] == old}
            for new in sorted(wanted):
                better = {**values, field: new}
                if self._score(better) < self._score(values):
                    values, made = better, self.probes.built(better)
        return values

    def _choices(self) -> dict[Field, list[Any]]:
        """For each field that has a say in something that must change, the values to try, likely ones first."""
        alone: dict[Field, tuple[int, Place]] = {}
        shared: set[Field] = set()
        for place in self.base.sizes:
            deciders = self.probes.deciders(place)
            if place in self.wrong and not deciders:
                raise CheckpointError(f"{self._told(place)}, and no field of the config decides that")
            if len(deciders) == 1 and type(self.fields[deciders[0]]) is int:
                self._settle(alone, deciders[0], place)
            elif place in self.wrong:
                shared.update(deciders)
        numbers = set(self.base.different_numbers(self.target))
        shared.update(
            field for field in self.probes.changed if field not in alone and numbers & self.probes.numbers(field)
        )
        changing = shared | {field for field, (value, _) in alone.items() if value != self.fields[field]}
        for place in self.base.sizes:  # what must stay may ask for a change, too, where another field changes
            deciders = self.probes.deciders(place)
            if changing.intersection(deciders):
                shared.update(deciders)
        fixed: dict[Field, list[Any]] = {field: [value] for field, (value, _) in alone.items()}
        guesses = {field: self._guesses(field) for field in shared if field not in alone}
        changing = [*guesses, *(field for field, (value,) in fixed.items() if value != self.fields[field])]
        return {**self._beside(changing), **guesses, **fixed}

    def _beside(self, changing: Sequence[Field]) -> dict[Field, list[Any]]:
        """Fields that may have to change with others so that a number stays: heads, if the scale of attention is to."""
        places = {
            place
            for field in changing
            for place in self.probes.numbers(field)
            if self.target.numbers.get(place) == self.base.numbers[place]
        }
        ratios = {Fraction(self.target.sizes[place], self.base.sizes[place]) for place in self.wrong if place[1] != -1}
        found: dict[Field, list[Any]] = {}
        for field in self.probes.changed:
            value = self.fields[field]
            if type(value) is int and places & self.probes.numbers(field):
                scaled = [value * ratio for ratio in sorted(ratios)]
                found[field] = [value, *(int(new) for new in scaled if new.denominator == 1 and new not in (0, value))]
        return found

    def _settle(self, alone: dict[Field, tuple[int, Place]], field: Field, place: Place) -> None:
        """Take note of what an axis asks of the one field that decides it."""
        probed = self.probes.changed[field][1].sizes[place]
        values = self.probes.solutions(field, self.base.sizes[place], probed, self.target.sizes[place])
        if not values:
            raise CheckpointError(f"{self._told(place)}, which no {dotted(field)} gives")
        known = alone.setdefault(field, (values[0], place))
        if known[0] not in values:
            raise CheckpointError(
                f"{self._told(place)}, for which {dotted(field)} would have to be {values[0]}, but {known[1][0]} "
                f"with size {self.target.sizes[known[1]]} along axis {known[1][1]} asks for {known[0]}: the config has "
                "one number for both"
            )

    def _guesses(self, field: Field) -> list[Any]:
        """Values that axes and numbers ask of a field that is not alone in deciding them."""
        probe = self.probes.changed[field][1]
        votes: Counter[Any] = Counter()
        for now, other, wanted in (
            (self.base.sizes, probe.sizes, self.target.sizes),
            (self.base.numbers, probe.numbers, self.target.numbers),
        ):
            for place, before in now.items():
                probed, after = other.get(place, before), wanted.get(place, before)
                if place[1] != -1 and probed != before and type(before) is type(probed) is type(after) is int:
                    votes.update(self.probes.solutions(field, int(before), int(probed), int(after)))
        likely = [value for value, _ in votes.most_common(5)]
        present = self.fields[field]
        # Fields that are not set stay so, if possible.
        return list(dict.fromkeys([present, *likely] if type(present) is not int else [*likely, present]))

    def _score(self, values: _Values) -> _Score:
        """How bad a config is: in sizes, in numbers that the shrink set, in fractions, in other numbers, in length."""
        made = self.probes.built(values)
        if made is None or made.tensors != self.target.tensors:
            return math.inf, 0, 0, 0, 0
        numbers = made.different_numbers(self.target)
        new = sum(self.fields.get(field) in (None, UNSET) for field in values)
        return (
            len(made.different_sizes(self.target)),
            len(self.sure.intersection(numbers)),
            sum(type(self.target.numbers[place]) is float for place in numbers),
            len(numbers),
            len(values) + 2 * new,
        )

    def _complain(self, values: _Values) -> None:
        made = self.probes.built(values) or self.base
        places = made.different_sizes(self.target)
        place = places[0] if places else self.wrong[0]
        fields = sorted(dotted(field) for field in self.probes.deciders(place))
        raise CheckpointError(
            f"{self._told(place)}, and no values of {_and(fields)} give that together with all other sizes"
        )

    def _told(self, place: Place) -> str:
        name, axis = place
        if axis == -1:
            return f"{name} has {self.target.sizes[place]} axes, where the class gives it {self.base.sizes[place]}"
        size, once = self.target.sizes.get(place), self.base.sizes.get(place)
        return f"{name} has size {size} along axis {axis}" + (f" (once {once})" if size != once else "")


def _by_likelihood(choices: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """All combinations, those with likely values first."""
    if math.prod(map(len, choices)) > 50 * _TRIES:
        choices = [options[:2] for options in choices]
    ranked: Iterable[tuple[int, ...]] = islice(product(*(range(len(options)) for options in choices)), 50 * _TRIES)
    for ranks in sorted(ranked, key=sum):
        yield tuple(options[rank] for options, rank in zip(choices, ranks, strict=True))


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
