"""Integers that remember where they came from.

While a model is recorded, every size it reads (``x.shape``, ``x.size(1)``, ``x.numel()``) and every integer attribute
of its modules is a `Size`: an ``int`` that carries the expression it was computed by. When such a number reaches an
operator (``view``, ``split``, a slice, ``groups=``), the engine learns which *rule* the number follows, instead of
guessing which attribute happens to be equal to an old size. A number that lost its expression (scripted code) degrades
to a literal, and a literal freezes what it measures: a weaker result, never a wrong one. A size that is made a plain
number (by numpy, bits, ``int`` in a library) where nobody follows it stays what it is; what text is made of it, or what
C code reads, shows in the proof alone.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

__all__ = [
    "ARITHMETIC",
    "Attribute",
    "BinaryOp",
    "Const",
    "Dim",
    "Expr",
    "Power",
    "Ratio",
    "Root",
    "Size",
    "dims",
    "expression",
    "negative",
    "plain",
    "watch_sizes",
]


@dataclass(frozen=True)
class Const:
    """A number written in the source, or one whose origin was lost; whole, but for what a size is multiplied with."""

    value: Any

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
    """An integer attribute of a module, or one element of a tuple attribute; of its ``config`` object, with a dot."""

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
        rounded, _, sign = self.symbol.rpartition(" ")
        return f"{rounded}({self.left} {sign} {self.right})"


Expr: TypeAlias = Const | Dim | Attribute | BinaryOp

_ROUNDED: dict[str, Callable[[float], int]] = {"int": int, "floor": math.floor, "ceil": math.ceil, "round": round}

ARITHMETIC: dict[str, Callable[[Any, Any], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    **{f"{name} *": lambda size, number, whole=whole: whole(size * number) for name, whole in _ROUNDED.items()},
    **{f"{name} /": lambda size, number, whole=whole: whole(size / number) for name, whole in _ROUNDED.items()},
}
"""By symbol; ``int *`` is a product with a fraction, made a whole number again."""


plain = int.__int__
"""The integer that a size is, without a note that somebody took it for a number."""


class Size(int):
    """An ``int`` with its expression; sums, differences, products and quotients of it keep theirs."""

    expr: Expr

    def __new__(cls, value: Any, expr: Expr | None = None) -> Self:
        """An integer that was computed by ``expr``; a plain one, where code makes more of the kind of what it has."""
        if expr is None:
            return int(value)  # type: ignore[return-value]
        size = super().__new__(cls, value)
        size.expr = expr
        return size

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (plain(self),)  # copies that outlive the recording are plain numbers

    def __deepcopy__(self, memo: dict[int, Any]) -> Size:
        return self

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)  # type: ignore[operator]
        if same is not NotImplemented:
            _tell(self.expr, expression(other), same)
        return same

    def __ne__(self, other: object) -> bool:
        differ = int.__ne__(self, other)  # type: ignore[operator]
        if differ is not NotImplemented:
            _tell(self.expr, expression(other), not differ)
        return differ

    def __lt__(self, other: Any) -> bool:
        return self._ordered(other, int.__lt__(self, other))

    def __le__(self, other: Any) -> bool:
        return self._ordered(other, int.__le__(self, other))

    def __gt__(self, other: Any) -> bool:
        return self._ordered(other, int.__gt__(self, other))

    def __ge__(self, other: Any) -> bool:
        return self._ordered(other, int.__ge__(self, other))

    def _ordered(self, other: Any, answer: Any) -> Any:
        """Note that two sizes were found to be just as large: the answer would be another if one of them shrank."""
        if answer is not NotImplemented and plain(self) == plain(other):
            _tell(self.expr, expression(other), True)
        return answer

    def __neg__(self) -> Size:
        return Size(-plain(self), negative(self.expr))

    def __pos__(self) -> Size:
        return self

    def __abs__(self) -> Size:
        return self if plain(self) >= 0 else -self

    def __round__(self, digits: int | None = None) -> int:
        return self if digits is None or digits >= 0 else round(int(self), digits)

    def __floor__(self) -> Size:
        return self

    def __ceil__(self) -> Size:
        return self

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __lshift__(self, other: Any) -> Any:
        return self * (1 << other)

    def __rshift__(self, other: Any) -> Any:
        return self // (1 << other)

    def __float__(self) -> float:
        self.used_as_number()
        return int.__float__(self)

    def __int__(self) -> int:
        self.used_as_number()
        return plain(self)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _by_numpy(function, method, inputs, kwargs)

    def __truediv__(self, other: Any) -> Any:
        return Ratio.of(self, "/", other) if _is_number(other) else int.__truediv__(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        if _is_number(other) and plain(self):
            return Power.of(self, -1.0, other / plain(self))
        self.used_as_number()
        return int.__rtruediv__(self, other)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        if (
            _is_number(other)
            and modulo is None
            and plain(self) > 0
            and isinstance(value := plain(self) ** other, float)
        ):
            return Power.of(self, float(other), value)
        self.used_as_number()
        return int.__pow__(self, other) if modulo is None else int.__pow__(self, other, modulo)

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        self.used_as_number()
        return int.__rpow__(self, other)

    def used_as_number(self) -> None:
        """Note that a size went into arithmetic as a number (``c ** -0.5``): the function would change with it."""
        _tell(self.expr, Const(plain(self)), True)


def _noting(name: str) -> Callable[..., Any]:
    """A method of ``int`` whose result knows nothing of sizes: bits. Text is mostly for messages, and costs nothing."""
    method = getattr(int, name)

    def noting(self: Size, *args: Any, **kwargs: Any) -> Any:
        self.used_as_number()
        return method(self, *args, **kwargs)

    return noting


for _name in ("and", "rand", "or", "ror", "xor", "rxor", "invert", "rlshift", "rrshift"):
    setattr(Size, f"__{_name}__", _noting(f"__{_name}__"))
for _name in ("bit_length", "bit_count", "to_bytes", "as_integer_ratio"):
    setattr(Size, _name, _noting(_name))
for _name in ("real", "numerator"):
    setattr(Size, _name, property(lambda self: self))
Size.conjugate = lambda self: self  # type: ignore[method-assign]


def _by_numpy(function: Any, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What numpy computes of numbers among which there are sizes: it does not ask them for their origin."""
    for number in inputs:
        if isinstance(number, (Size, Power)):
            number.used_as_number()
    inputs = tuple(plain(item) if isinstance(item, Size) else item for item in inputs)
    inputs = tuple(float.__pos__(item) if isinstance(item, Power) else item for item in inputs)
    return getattr(function, method)(*inputs, **kwargs)


def _is_number(other: Any) -> bool:
    return isinstance(other, (int, float)) and not isinstance(other, bool)


class Ratio(float):
    """A size times or by a number: a number too, until the code makes a whole one of it again."""

    size: Size
    symbol: str
    number: int | float

    @classmethod
    def of(cls, size: Size, symbol: str, number: float) -> Self:
        """``size * number`` or ``size / number``, noted as a use of the size as a number."""
        size.used_as_number()
        by = plain(number) if isinstance(number, int) else float(number)
        ratio = cls(plain(size) * by if symbol == "*" else plain(size) / by)
        ratio.size, ratio.symbol, ratio.number = size, symbol, by
        return ratio

    def used_as_number(self) -> None:
        """Note that it went into arithmetic: the size did, whatever else becomes of it."""
        self.size.used_as_number()

    def whole(self, rounded: str) -> Any:
        """The size that it is, rounded in one of four ways; it was no use of a number then."""
        forget = _FORGET.get()
        if forget is not None:
            forget(self.size.expr, Const(plain(self.size)), True)
        if self.symbol == "/" and isinstance(self.number, int) and rounded == "floor":
            return self.size // self.number
        symbol = f"{rounded} {self.symbol}"
        value = ARITHMETIC[symbol](plain(self.size), self.number)
        return Size(value, BinaryOp(symbol, self.size.expr, Const(self.number)))

    def __trunc__(self) -> int:
        return self.whole("floor" if self >= 0 else "int")

    def __floor__(self) -> int:
        return self.whole("floor")

    def __ceil__(self) -> int:
        return self.whole("ceil")

    def __round__(self, digits: int | None = None) -> Any:
        return self.whole("round") if digits is None else float.__round__(self, digits)

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


@dataclass
class Root:
    """Where a size became a power of itself: a use of it as a number, if all it does is not to scale values."""

    expr: Expr
    value: int
    lost: bool = False


class Power(float):
    """A size to a power, times any number: ``1 / math.sqrt(n)``. What it scales may be able to make up for another."""

    root: Root
    power: float

    @classmethod
    def of(cls, size: Size, power: float, value: float) -> Self:
        """``value``, which is in proportion to ``size ** power``; noted as a use of the size as a number."""
        size.used_as_number()
        return cls.made(Root(size.expr, plain(size)), power, value)

    @classmethod
    def made(cls, root: Root, power: float, value: float) -> Self:
        """One that has the origin of another."""
        made = cls(value)
        made.root, made.power = root, power
        return made

    def used_as_number(self) -> None:
        """Note that it does something else than to scale values."""
        self.root.lost = True

    def __neg__(self) -> Self:
        return self * -1

    def __mul__(self, other: Any) -> Any:
        return self._by(other, float.__mul__(self, other), self.power) if _is_number(other) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._by(other, float.__truediv__(self, other), self.power) if _is_number(other) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return self._by(other, float.__rtruediv__(self, other), -self.power) if _is_number(other) else NotImplemented

    def __pow__(self, other: Any, modulo: None = None) -> Any:
        value = float.__pow__(self, other)
        return self._by(other, value, self.power * other) if _is_number(other) and float.__gt__(self, 0.0) else value

    def _by(self, other: Any, value: float, power: float) -> Any:
        """The result of arithmetic with a plain number; with any other, it is lost where the size went."""
        if type(other) in (int, float):
            return type(self).made(self.root, power, value)
        self.root.lost = True
        if isinstance(other, Power):
            other.root.lost = True
        if isinstance(other, Size):
            other.used_as_number()
        return float(value)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _by_numpy(function, method, inputs, kwargs)

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float.__pos__(self),)


def _losing(name: str) -> Callable[..., Any]:
    plain = getattr(float, f"__{name}__")

    def method(self: Power, *args: Any) -> Any:
        self.root.lost = True
        return plain(self, *args)

    return method


for _name in ("add", "radd", "sub", "rsub", "mod", "rmod", "floordiv", "rfloordiv", "divmod", "rpow", "float", "int"):
    setattr(Power, f"__{_name}__", _losing(_name))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "trunc", "floor", "ceil", "round", "abs"):
    setattr(Power, f"__{_name}__", _losing(_name))
Power.__hash__ = float.__hash__  # type: ignore[method-assign]


Listener: TypeAlias = Callable[["Expr", "Expr", bool], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_FORGET: ContextVar[Listener | None] = ContextVar("forget", default=None)


@contextmanager
def watch_sizes(listener: Listener, forget: Listener | None = None) -> Iterator[None]:
    """While this lasts, ``listener`` is told of every two expressions that are compared, and whether they were equal.

    A size that is used as a number is one that must stay equal to its present value. ``forget`` takes back one such
    note, where the number turns out to be a size after all.
    """
    token, other = _LISTENER.set(listener), _FORGET.set(forget)
    try:
        yield
    finally:
        _LISTENER.reset(token)
        _FORGET.reset(other)


def _tell(left: Expr, right: Expr, equal: bool) -> None:
    listener = _LISTENER.get()
    if listener is not None and left != right:
        listener(left, right, equal)


def expression(number: Any) -> Expr:
    """The expression of a number met while recording; a plain ``int`` is a constant."""
    return number.expr if isinstance(number, Size) else Const(int(number))


def negative(expr: Expr) -> Expr:
    """The expression of the number with the other sign."""
    if isinstance(expr, Const):
        return Const(-expr.value)
    if isinstance(expr, BinaryOp) and expr.symbol == "-" and expr.left == Const(0):
        return expr.right
    return BinaryOp("-", Const(0), expr)


def _binary(symbol: str, *, swapped: bool) -> Callable[[Size, Any], Any]:
    compute = ARITHMETIC[symbol]

    def method(self: Size, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            if symbol == "*" and isinstance(other, float):
                return Ratio.of(self, symbol, other)
            if isinstance(other, (float, complex, list, tuple, str)):
                self.used_as_number()
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        return Size(compute(plain(left), plain(right)), BinaryOp(symbol, expression(left), expression(right)))

    return method


for _name, _symbol in {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}.items():
    setattr(Size, f"__{_name}__", _binary(_symbol, swapped=False))
    setattr(Size, f"__r{_name}__", _binary(_symbol, swapped=True))


def dims(expr: Expr) -> Iterator[Dim]:
    """Every axis an expression measures, in order."""
    if isinstance(expr, Dim):
        yield expr
    elif isinstance(expr, BinaryOp):
        yield from dims(expr.left)
        yield from dims(expr.right)
