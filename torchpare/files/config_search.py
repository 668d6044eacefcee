"""Which config would make a transformers class build the shapes that a shrunk model has, if any would.

Nothing is known here of any model. The class is built without weights from configs with one field changed; what changes
with the field depends on it. An axis on which one field alone has a say fixes that field; what is left is tried out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice, product
from typing import Any

from torchpare.errors import CheckpointError
from torchpare.files.config_fields import UNSET, Field, dotted, edited, float_fields, size_fields, without_entries
from torchpare.files.signature import Place, Signature

__all__ = ["find_config"]

Build = Callable[[Any], "Signature | None"]
_Values = dict[Field, Any]

_TRIES = 400
_PROBE = 24  # a size for fields that have none; it divides by what heads and groups mostly are


def find_config(
    config: Any, target: Signature, build: Build, *, dropped: Mapping[str, Sequence[int]], sure: Collection[Place]
) -> Any:
    """A config from which `build` makes the shapes of `target`, and as many of its numbers as can be.

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
        return config
    search = _Search(config, base, target, build, frozenset(sure))
    return edited(config, search.floats(search.best()))


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
    """One search: what depends on which field, and the values to try for each."""

    def __init__(self, config: Any, base: Signature, target: Signature, build: Build, sure: frozenset[Place]) -> None:
        self.config, self.base, self.target, self.build, self.sure = config, base, target, build, sure
        self.fields = size_fields(config)
        self.probes: dict[Field, tuple[int, Signature]] = {}
        for field, value in self.fields.items():
            probe = self._probe(field, value)
            if probe is not None:
                self.probes[field] = probe
        self.wrong = base.different_sizes(target)

    def best(self) -> _Values:
        """The values that fit best: all shapes, or an error."""
        choices = self._choices()
        ranked = sorted(choices, key=lambda field: len(choices[field]))
        best: tuple[tuple[int, ...], _Values] | None = None
        for values in islice(_by_likelihood([choices[field] for field in ranked]), _TRIES):
            given = {f: v for f, v in zip(ranked, values, strict=True) if v != self.fields[f]}
            score = self._score(given)
            if best is None or score < best[0]:
                best = score, given
        if best is None or best[0][0]:
            self._complain(best[1] if best is not None and best[0][0] < math.inf else {})
        return best[1] if best is not None else {}

    def floats(self, values: _Values) -> _Values:
        """`values`, and with them fields for numbers with a fraction that the shrink changed: epsilons."""
        made = self._built(values)
        for field, old in float_fields(self.config).items():
            wrong = [] if made is None else made.different_numbers(self.target)
            wanted = {self.target.numbers[place] for place in wrong if made is not None and made.numbers[place] == old}
            for new in sorted(wanted):
                better = {**values, field: new}
                if self._score(better) < self._score(values):
                    values, made = better, self._built(better)
        return values

    def _built(self, values: _Values) -> Signature | None:
        try:
            config = edited(self.config, values)
        except Exception:  # noqa: BLE001 - a config that checks what it is given
            return None
        return self.build(config)

    def _probe(self, field: Field, value: int | str | None) -> tuple[int, Signature] | None:
        """A value other than the present one that the class accepts and that changes something."""
        known = type(value) is int
        tries = [2 * value, value + 1, value // 2, 3 * value] if known else [_PROBE, 2 * _PROBE, 2]
        for new in tries:
            if new == value or new < 1:
                continue
            made = self._built({field: new})
            if made is None or made.tensors != self.base.tensors:
                continue
            if made.different_sizes(self.base) or made.different_numbers(self.base):
                return new, made
        return None

    def _deciders(self, place: Place) -> list[Field]:
        return [field for field, (_, made) in self.probes.items() if made.sizes[place] != self.base.sizes[place]]

    def _choices(self) -> dict[Field, list[Any]]:
        """For each field that has a say in something that must change, the values to try, likely ones first."""
        alone: dict[Field, tuple[int, Place]] = {}
        shared: set[Field] = set()
        for place in self.base.sizes:
            deciders = self._deciders(place) if place[1] != -1 else []
            if place in self.wrong and not deciders:
                raise CheckpointError(f"{self._told(place)}, and no field of the config decides that")
            if len(deciders) == 1 and type(self.fields[deciders[0]]) is int:
                self._settle(alone, deciders[0], place)
            elif place in self.wrong:
                shared.update(deciders)
        numbers = set(self.base.different_numbers(self.target))
        for field, (_, made) in self.probes.items():
            if field not in alone and numbers & set(made.different_numbers(self.base)):
                shared.add(field)
        changing = shared | {field for field, (value, _) in alone.items() if value != self.fields[field]}
        for place in self.base.sizes:  # what must stay may ask for a change, too, where another field changes
            deciders = self._deciders(place) if place[1] != -1 else []
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
            for place in self.probes[field][1].different_numbers(self.base)
            if type(self.base.numbers[place]) is float
        }
        ratios = {Fraction(self.target.sizes[place], self.base.sizes[place]) for place in self.wrong if place[1] != -1}
        found: dict[Field, list[Any]] = {}
        for field, (_, made) in self.probes.items():
            value = self.fields[field]
            if type(value) is int and places & set(made.different_numbers(self.base)):
                scaled = [value * ratio for ratio in sorted(ratios)]
                found[field] = [value, *(int(new) for new in scaled if new.denominator == 1 and new not in (0, value))]
        return found

    def _settle(self, alone: dict[Field, tuple[int, Place]], field: Field, place: Place) -> None:
        """Take note of what an axis asks of the one field that decides it."""
        values = self._solutions(field, self.base.sizes[place], self.probes[field][1].sizes[place], place)
        if not values:
            raise CheckpointError(f"{self._told(place)}, which no {dotted(field)} gives")
        known = alone.setdefault(field, (values[0], place))
        if known[0] not in values:
            raise CheckpointError(
                f"{self._told(place)}, for which {dotted(field)} would have to be {values[0]}, but {known[1][0]} "
                f"with size {self.target.sizes[known[1]]} along axis {known[1][1]} asks for {known[0]}: the config has "
                "one number for both"
            )

    def _solutions(self, field: Field, before: float, probed: float, place: Place) -> list[int]:
        """Values of a field for which something that is linear in it, or proportional to it, is as in the target."""
        after = self.target.sizes.get(place, self.target.numbers.get(place))
        value, probe = self.fields[field], self.probes[field][0]
        if after is None or type(after) is float:
            return []
        found: list[Fraction] = []
        if type(value) is int:
            if probed != before:
                found.append(value + Fraction(int(after - before)) * (probe - value) / int(probed - before))
            if before:
                found.append(Fraction(value) * int(after) / int(before))
        elif probed:  # what the class takes while the field is not set may be the answer, too
            found += [Fraction(probe) * int(size) / int(probed) for size in (after, before)]
        return list(dict.fromkeys(int(item) for item in found if item.denominator == 1 and item >= 1))

    def _guesses(self, field: Field) -> list[Any]:
        """Values that axes and numbers ask of a field that is not alone in deciding them."""
        probe = self.probes[field][1]
        votes: Counter[Any] = Counter()
        for before, after in ((self.base.sizes, probe.sizes), (self.base.numbers, probe.numbers)):
            for place, size in before.items():
                changed = after.get(place, size)
                if place[1] != -1 and changed != size and type(size) is type(changed) is int:
                    votes.update(self._solutions(field, size, changed, place))
        likely = [value for value, _ in votes.most_common(5)]
        present = self.fields[field]
        # Fields that are not set stay so, if possible.
        return list(dict.fromkeys([present, *likely] if type(present) is not int else [*likely, present]))

    def _score(self, values: _Values) -> tuple[float, int, int, int, int]:
        """How bad a config is: in sizes, in numbers that the shrink set, in fractions, in other numbers, in length."""
        made = self._built(values)
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
        made = self._built(values) or self.base
        places = made.different_sizes(self.target)
        place = places[0] if places else self.wrong[0]
        fields = sorted(dotted(field) for field in self._deciders(place))
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
