"""Numbers as people read them; every table, chart and page says a number in these words."""

from __future__ import annotations

import math

__all__ = ["count", "difference", "duration", "file_size", "points", "ratio", "share", "signed"]

_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float) -> str:
    """A number of things, to three digits: ``2.44 M``."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def file_size(value: float) -> str:
    """Bytes, to three digits, in powers of 1000: ``9.78 MB``."""
    return _scaled(value, 1000, ("B", "kB", "MB", "GB", "TB"))


def duration(seconds: float) -> str:
    """A time, to three digits: ``7.53 ms``."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s"
    if seconds >= 1:
        return f"{_three_digits(seconds)} s"
    return _scaled(seconds * 1e6, 1000, ("µs", "ms", "s"))


def share(value: float) -> str:
    """Part of a whole, from 0 to 1, as a percentage: ``98.67 %``."""
    return f"{100 * value:.2f} %"


def points(value: float) -> str:
    """A difference of two shares, in percentage points and with its sign: minus 0.22."""
    rounded = round(100 * value, 2)
    if rounded == 0:
        return "±0.00"
    return f"{'+' if rounded > 0 else _MINUS}{abs(rounded):.2f}"


def ratio(value: float) -> str:
    """How many times, with the sign for it: 4.0 and a cross."""
    return f"{value:.1f}{_TIMES}" if value < 99.95 else f"{value:.0f}{_TIMES}"


def difference(value: float) -> str:
    """How far two results lie apart, with a power of ten; ``0`` where they are the same to the last bit."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} {_TIMES} 10{str(int(exponent)).translate(_RAISED)}"


def signed(value: float) -> str:
    """Any number to three digits, with a power of ten where it is very small or large: minus 0.0737."""
    if value == 0 or not math.isfinite(value) or 1e-4 <= abs(value) < 1e6:
        digits = f"{value:#.3g}" if abs(value) < 999.5 else f"{float(f'{value:.3g}'):.0f}"
        return (digits.rstrip(".") if value else "0").replace("-", _MINUS)
    return difference(value).replace("-", _MINUS)


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    # Rounding comes first: 999.7 thousand is 1 M, not 1000 k.
    while float(f"{value:.3g}") >= step and power < len(units) - 1:
        value /= step
        power += 1
    # What is counted one by one has no decimals.
    number = f"{value:g}" if power == 0 and float(value).is_integer() else _three_digits(value)
    return f"{number} {units[power]}" if units[power] else number


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(float(f"{value:.3g}")))))
    return f"{value:.{decimals}f}"
