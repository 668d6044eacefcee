"""Equations between numbers of channels and attributes of modules: what a removal must not break."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, TypeAlias

from torchpare.graph.sizes import ARITHMETIC, Attribute, BinaryOp, Const

__all__ = ["Equality", "Polynomial", "Side", "Unknown", "Values"]


@dataclass(frozen=True)
class Polynomial:
    """A number of kept entries: by product of variables, how often it counts; the empty product is a constant."""

    terms: Mapping[tuple[int, ...], int]

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self.terms == other.terms

    def __str__(self) -> str:
        return " + ".join(f"{count}" + "".join(f"*k{v}" for v in key) for key, count in self.terms.items())


Side: TypeAlias = "Polynomial | Const | Attribute | BinaryOp"
Unknown: TypeAlias = "int | Attribute"
Values: TypeAlias = "dict[Unknown, int]"


@dataclass(frozen=True)
class Equality:
    """Two sides that must be equal (or must not become equal), and where that was seen."""

    left: Side
    right: Side
    why: str
    site: str
    equal: bool = True

    @cached_property
    def unknowns(self) -> frozenset[Unknown]:
        """The variables and attributes on either side."""
        return frozenset(_unknowns(self.left)) | frozenset(_unknowns(self.right))

    @property
    def variables(self) -> frozenset[int]:
        """The variables on either side."""
        return frozenset(item for item in self.unknowns if isinstance(item, int))

    @property
    def attributes(self) -> frozenset[Attribute]:
        """The attributes on either side."""
        return frozenset(item for item in self.unknowns if isinstance(item, Attribute))

    @cached_property
    def linear(self) -> bool:
        """Whether both sides are sums of products, so that one unknown follows by a division."""
        return _is_linear(self.left) and _is_linear(self.right)

    def holds(self, values: Mapping[Unknown, int]) -> bool:
        """Whether it holds, all unknowns being known."""
        gap = self.gap(values)
        return gap is not None and (gap == 0) == self.equal

    def gap(self, values: Mapping[Unknown, int]) -> int | None:
        """Left minus right; None where something is divided by zero."""
        try:
            return _value(self.left, values) - _value(self.right, values)
        except ZeroDivisionError:
            return None


def _unknowns(side: Side) -> Iterator[Unknown]:
    if isinstance(side, Polynomial):
        for key in side.terms:
            yield from key
    elif isinstance(side, Attribute):
        yield side
    elif isinstance(side, BinaryOp):
        yield from _unknowns(side.left)  # type: ignore[arg-type]
        yield from _unknowns(side.right)  # type: ignore[arg-type]


def _is_linear(side: Side) -> bool:
    """Whether no unknown is divided, and none multiplied with itself."""
    if isinstance(side, Polynomial):
        return all(len(set(key)) == len(key) for key in side.terms)
    if isinstance(side, BinaryOp):
        if side.symbol not in ("+", "-", "*"):
            return not (set(_unknowns(side.left)) | set(_unknowns(side.right)))  # type: ignore[arg-type]
        if side.symbol == "*" and set(_unknowns(side.left)) & set(_unknowns(side.right)):  # type: ignore[arg-type]
            return False
        return _is_linear(side.left) and _is_linear(side.right)  # type: ignore[arg-type]
    return True


def _value(side: Side, values: Mapping[Unknown, int]) -> Any:
    if isinstance(side, Polynomial):
        return sum(count * prod(values[v] for v in key) for key, count in side.terms.items())
    if isinstance(side, Const):
        return side.value
    if isinstance(side, Attribute):
        return values[side]
    return ARITHMETIC[side.symbol](_value(side.left, values), _value(side.right, values))  # type: ignore[arg-type]
