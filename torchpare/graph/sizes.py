"""Integers that remember where they came from.

While a model is recorded, every size it reads (``x.shape``, ``x.size(1)``, ``x.numel()``) and every integer attribute
of its modules is a `Size`: an ``int`` that carries the expression it was computed by. When such a number reaches an
operator (``view``, ``split``, a slice, ``groups=``), the engine learns which *rule* the number follows, instead of
guessing which attribute happens to be equal to an old size. A number that lost its expression (``int(x)``, numpy,
scripted code) degrades to a literal, and a literal freezes what it measures: a weaker result, never a wrong one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

__all__ = ["Attribute", "BinaryOp", "Const", "Dim", "Expr", "Size", "attributes", "evaluate", "expression", "solve"]


@dataclass(frozen=True)
class Const:
    """A number written in the source, or one whose origin was lost."""

    value: int

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Dim:
    """The size of one axis of a recorded value."""

    uid: int
    axis: int

    def __str__(self) -> str:
        return f"size({self.axis})"


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module, or one element of a tuple attribute."""

    module: str
    name: str
    index: int | None = None

    def __str__(self) -> str:
        path = f"{self.module}.{self.name}" if self.module else self.name
        return path if self.index is None else f"{path}[{self.index}]"


@dataclass(frozen=True)
class BinaryOp:
    """An arithmetic step between two expressions."""

    symbol: str
    left: Expr
    right: Expr

    def __str__(self) -> str:
        return f"({self.left} {self.symbol} {self.right})"


Expr: TypeAlias = Const | Dim | Attribute | BinaryOp

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


class Size(int):
    """An ``int`` with its expression; sums, differences, products and quotients of it keep theirs."""

    expr: Expr

    def __new__(cls, value: int, expr: Expr) -> Self:
        """An integer that was computed by ``expr``."""
        size = super().__new__(cls, value)
        size.expr = expr
        return size

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)  # copies that outlive the recording are plain numbers

    def __deepcopy__(self, memo: dict[int, Any]) -> Size:
        return self


def expression(number: Any) -> Expr:
    """The expression of a number met while recording; a plain ``int`` is a constant."""
    return number.expr if isinstance(number, Size) else Const(int(number))


def _binary(symbol: str, *, swapped: bool) -> Callable[[Size, Any], Any]:
    compute = _ARITHMETIC[symbol]

    def method(self: Size, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        return Size(compute(int(left), int(right)), BinaryOp(symbol, expression(left), expression(right)))

    return method


for _name, _symbol in {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}.items():
    setattr(Size, f"__{_name}__", _binary(_symbol, swapped=False))
    setattr(Size, f"__r{_name}__", _binary(_symbol, swapped=True))


def attributes(expr: Expr) -> Iterator[Attribute]:
    """Every module attribute an expression reads, in order."""
    if isinstance(expr, Attribute):
        yield expr
    elif isinstance(expr, BinaryOp):
        yield from attributes(expr.left)
        yield from attributes(expr.right)


def evaluate(expr: Expr, dim: Callable[[Dim], int], attribute: Callable[[Attribute], int]) -> int:
    """The value of an expression, given the values of the axes and attributes it reads.

    Raises:
        ZeroDivisionError: if it divides by an axis or attribute of size 0.
    """
    if isinstance(expr, Const):
        return expr.value
    if isinstance(expr, Dim):
        return dim(expr)
    if isinstance(expr, Attribute):
        return attribute(expr)
    compute = _ARITHMETIC[expr.symbol]
    return compute(evaluate(expr.left, dim, attribute), evaluate(expr.right, dim, attribute))


def solve(expr: Expr, target: int, unknown: Attribute, value: Callable[[Expr], int]) -> int | None:
    """The value of ``unknown`` for which ``expr`` equals ``target``, or None where there is no whole one.

    ``unknown`` occurs once in ``expr``; ``value`` gives the value of every part of the expression without it.
    """
    if expr == unknown:
        return target
    if not isinstance(expr, BinaryOp):
        return None
    on_left = unknown in set(attributes(expr.left))
    inside, other = (expr.left, value(expr.right)) if on_left else (expr.right, value(expr.left))
    match expr.symbol:
        case "+":
            inner: int | None = target - other
        case "-":
            inner = target + other if on_left else other - target
        case "*":
            inner = target // other if other and target % other == 0 else None
        case "//" if on_left:
            inner = target * other
        case "//":
            inner = other // target if target and other % target == 0 else None
        case _:
            inner = None
    return None if inner is None else solve(inside, inner, unknown, value)
