"""Whole numbers that code makes of sizes by ``int``, ``len`` and ``numpy.prod`` follow the sizes."""

from __future__ import annotations

import builtins
import math
import statistics
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.graph.nets import free, image, net, shrinks
from torchpare import plan
from torchpare.errors import CaptureError
from torchpare.graph import analyse
from torchpare.graph.capture import capture

HALVES: dict[str, Callable] = {
    "int of a quotient": lambda m, y: int(y.shape[-1] / 2),
    "int of int": lambda m, y: int(int(y.shape[-1]) / 2),
    "floor": lambda m, y: math.floor(y.shape[-1] / 2),
    "ceiling": lambda m, y: math.ceil(y.shape[-1] / 2),
    "rounded": lambda m, y: round(y.shape[-1] / 2),
    "truncated": lambda m, y: math.trunc(y.shape[-1] / 2),
    "length of a bias": lambda m, y: len(m.a.bias) // 2,
    "length of a list": lambda m, y: y.shape[-1] // len([1, 2]),
    "numpy.prod": lambda m, y: np.prod(y.shape[-1:]) // 2,
    "numpy.prod of a list": lambda m, y: int(np.prod([1, y.shape[-1]]) / 2),
}

HALF = [{"sparsity": 0.5, "structures": ["all"]}]


class Halves(nn.Module):
    """Two halves of a layer's features, cut at a number that is worked out in this module."""

    def __init__(self, half):
        super().__init__()
        self.half, self.width = half, 16
        self.a, self.b, self.c = nn.Linear(3, 16), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        y = self.a(x)
        if type(self.width) == int and isinstance(self.width, int) and not issubclass(str, int):  # noqa: E721
            y = y.tanh()
        half = self.half(self, y)
        return self.b(y[..., :half]) + self.c(y[..., half:]) + int("2") + int.from_bytes(b"a", "big")


@pytest.mark.parametrize("name", HALVES)
def test_a_half_that_is_a_whole_number_follows_the_width(name):
    model, x = Halves(HALVES[name]).double(), torch.randn(4, 3, dtype=torch.float64)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    assert (model.a.out_features, model.b.in_features, model.c.in_features) == (8, 4, 4)


def test_a_quotient_that_stays_a_number_holds_the_width():
    model = Halves(lambda m, y: y.shape[-1] // 2 + 0 * round(y.shape[-1] / 2, 1).is_integer())
    made = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], torch.randn(4, 3))
    assert made.removal.empty


SCALES: dict[str, Callable] = {
    "numpy.log": np.log,
    "numpy.log of a root": lambda n: np.log(n**0.5),
    "a scalar of numpy": lambda n: np.float64(0.5) * n,
    "an array": lambda n: np.array([n, 1]).sum().item(),
    "a number of numpy": lambda n: float(np.int64(n)),
    "bits": lambda n: float(n & 24),
    "length in bits": lambda n: float(n.bit_length()),
    "rounds of a loop": lambda n: sum(0.5 for _ in range(n)),
    "length of a row": lambda n: float(len([0] * n)),
    "int of another module": lambda n: float(builtins.int(n)),
    "tens": lambda n: float(round(n, -1)) + 0.5,
    "parts of a number": lambda n: (n.real + n.numerator + n.conjugate()) * 0.5,
    "a fraction": lambda n: float(Fraction(n)),
    "a mean": lambda n: statistics.fmean([n, 1]) + statistics.mean([n, n]),
    "a new tensor": lambda n: torch.ones(1).new_tensor(n),
    "a scalar tensor": torch.scalar_tensor,
    "places": lambda n: functional.one_hot(torch.tensor(1), n).numel() / 2,
}


class Divided(nn.Module):
    """Features divided by a number that is worked out of how many they are."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.a, self.b = scale, nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x):
        y = self.a(x).relu()
        return self.b(y / self.scale(y.shape[-1]))


@pytest.mark.parametrize("name", SCALES)
def test_a_number_that_nobody_can_follow_holds_the_width(name):
    assert plan(Divided(SCALES[name]), HALF, torch.randn(4, 3)).removal.empty


def test_text_of_a_size_costs_nothing():
    def told(n):
        message = f"{n} features, {n:4d}, {n!r}" + str(n)
        return 2.0 * bool(message)

    model = Divided(told)
    assert plan(model, HALF, torch.randn(4, 3)).apply().exact
    assert model.a.out_features == 8


def test_a_number_read_from_text_shows_in_the_proof():
    model = Divided(lambda n: float(f"{n}"))
    assert plan(model, HALF, torch.randn(4, 3)).apply().exact
    assert model.a.out_features == 16


def test_one_use_as_a_number_is_not_forgotten_for_another_as_a_size():
    class Twice(Halves):
        def forward(self, x):
            y = self.a(x)
            half = int(y.shape[-1] / 2)
            return super().forward(x) + self.b(y[..., :half]) * (y.shape[-1] / 2)

    made = plan(Twice(HALVES["int of a quotient"]), [{"sparsity": 0.5, "structures": ["all"]}], torch.randn(4, 3))
    assert made.removal.empty


def test_numpy_multiplies_the_flattened_sizes_of_a_map():
    model = net(lambda m, x: m.b(m.a(x).view(-1, np.prod(m.a(x).shape[1:]))), a=nn.Conv2d(3, 6, 1), b=nn.Linear(216, 2))
    assert free(model, image(), "a") == 6
    shrinks(model, image(), {"a": [1, 4]}, expect={"a": (4, 3), "b": (2, 144)})


def test_numpy_still_multiplies_everything_else():
    model = net(
        lambda m, x: m.a(x) * float(np.prod(np.ones((2, 3)), axis=0)[0]) + int(np.prod((2, 3))), a=nn.Linear(3, 2)
    )
    analyse(model, torch.randn(2, 3, dtype=torch.float64))
    assert np.prod([2, 3]) == 6


def test_the_modules_of_a_model_have_their_own_names_back():
    before = dict(globals())
    capture(Halves(HALVES["floor"]), torch.randn(4, 3))
    assert globals() == before
    with pytest.raises(CaptureError):
        capture(Halves(lambda m, y: 1 // 0), torch.randn(4, 3))
    assert globals() == before


class Insists(nn.Module):
    """What stands for ``int`` is not what torch takes for a type."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x)) + torch.zeros(2, dtype=int)


class Steps(nn.Module):
    """Halves a layer's features, and asks what its steps are."""

    def __init__(self, steps):
        super().__init__()
        self.a, self.b, self.steps = nn.Linear(3, 16), nn.Linear(8, 2), steps

    def forward(self, x):
        y = self.a(x)
        count = len(self.steps) if isinstance(self.steps, range) else 1
        return sum(self.b(y[:, : int(y.shape[-1] / 2)]) for _ in range(count))


@pytest.mark.parametrize("steps", [range(2), 1])
def test_code_that_asks_for_a_range_keeps_its_origins(steps):
    model = Steps(steps).double().eval()
    plan(model, HALF, torch.randn(4, 3, dtype=torch.float64)).apply()
    assert model.a.out_features == 8


def test_code_that_hands_int_on_as_a_type_is_recorded_all_the_same():
    model = Insists().double()
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], torch.randn(4, 3, dtype=torch.float64)).apply()
    assert model.a.out_features == 3
