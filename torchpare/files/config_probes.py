"""What in a model depends on which field of its config, found by building its class with one field changed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from torchpare.files.config_fields import Field, edited, size_fields
from torchpare.files.signature import Place, Signature

__all__ = ["Build", "Probes"]

Build = Callable[[Any], "Signature | None"]
"""Makes a model without weights from a config, to look at; None where the class does not accept it."""

_TRIED = 24  # a size for fields that have none; it divides by what heads and groups mostly are


class Probes:
    """Of each field with a say in something, another value, and what the class makes of that.

    Attributes:
        fields: the present value of every field that may be a size.
        changed: by field, the other value and the model built with it.
    """

    def __init__(self, config: Any, base: Signature, build: Build) -> None:
        self.config, self.base, self.build = config, base, build
        self.fields = size_fields(config)
        probes = {field: self._probe(field, value) for field, value in self.fields.items()}
        self.changed: dict[Field, tuple[int, Signature]] = {f: probe for f, probe in probes.items() if probe}

    def built(self, values: dict[Field, Any]) -> Signature | None:
        """What the class builds with other values; None where it does not accept them."""
        try:
            config = edited(self.config, values)
        except Exception:  # noqa: BLE001 - a config that checks what it is given
            return None
        return self.build(config)

    def deciders(self, place: Place) -> list[Field]:
        """The fields with which the size of an axis changes; how many axes there are is nobody's."""
        size = self.base.sizes.get(place)
        if place[1] == -1:
            return []
        return [field for field, (_, made) in self.changed.items() if made.sizes.get(place, size) != size]

    def numbers(self, field: Field) -> set[Place]:
        """The numbers in modules that change with a field."""
        return set(self.changed[field][1].different_numbers(self.base))

    def solutions(self, field: Field, before: int, probed: int, after: int) -> list[int]:
        """Values of a field for which something that is linear in it, or proportional to it, becomes `after`.

        Args:
            field: with its present value and its other value.
            before: what that something is now.
            probed: what it was with the other value of the field.
            after: what it is to be.
        """
        value, probe = self.fields[field], self.changed[field][0]
        found: list[Fraction] = []
        if type(value) is int:
            if probed != before:
                found.append(value + Fraction((after - before) * (probe - value), probed - before))
            if before:
                found.append(Fraction(value * after, before))
        elif probed:  # what the class takes while the field is not set may be the answer, too
            found += [Fraction(probe * size, probed) for size in (after, before)]
        return list(dict.fromkeys(int(item) for item in found if item.denominator == 1 and item >= 1))

    def _probe(self, field: Field, value: int | str | None) -> tuple[int, Signature] | None:
        """A value other than the present one that the class accepts and that changes something."""
        tries = [2 * value, value + 1, value // 2, 3 * value] if type(value) is int else [_TRIED, 2 * _TRIED, 2]
        for new in tries:
            made = None if new == value or new < 1 else self.built({field: new})
            if made is None:
                continue
            both = self.base.sizes.keys() & made.sizes.keys()
            if any(made.sizes[place] != self.base.sizes[place] for place in both) or made.different_numbers(self.base):
                return new, made
        return None
