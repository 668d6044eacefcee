from __future__ import annotations

import math

import pytest

from torchpare.report import numbers


@pytest.mark.parametrize(
    ("say", "value", "words"),
    [
        (numbers.count, 0, "0"),
        (numbers.count, 7, "7"),
        (numbers.count, 999, "999"),
        (numbers.count, 1000, "1.00 k"),
        (numbers.count, 611434, "611 k"),
        (numbers.count, 999_700, "1.00 M"),
        (numbers.count, 2435482, "2.44 M"),
        (numbers.count, 4e15, "4000 T"),
        (numbers.file_size, 512, "512 B"),
        (numbers.file_size, 9_780_000, "9.78 MB"),
        (numbers.duration, 0.0000004, "0.400 µs"),
        (numbers.duration, 0.00041, "410 µs"),
        (numbers.duration, 0.007534, "7.53 ms"),
        (numbers.duration, 2.5, "2.50 s"),
        (numbers.duration, 161, "2 min 41 s"),
        (numbers.share, 0.98666, "98.67 %"),
        (numbers.points, 0.00111, "+0.11"),
        (numbers.points, -0.00223, "\N{MINUS SIGN}0.22"),
        (numbers.points, 1e-9, "±0.00"),
        (numbers.ratio, 3.983, "4.0\N{MULTIPLICATION SIGN}"),
        (numbers.ratio, 250.2, "250\N{MULTIPLICATION SIGN}"),
        (numbers.difference, 0.0, "0"),
        (numbers.difference, 2.13e-16, "2.1 \N{MULTIPLICATION SIGN} 10⁻¹⁶"),
        (numbers.difference, math.nan, "nan"),
    ],
)
def test_numbers_are_said_as_people_read_them(say, value, words):
    assert say(value) == words
