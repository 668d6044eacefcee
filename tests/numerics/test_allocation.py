"""Vectors of sparsities: how searches begin, move, come down to a cost and take steps for the worse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchpare.numerics.allocation import (
    acceptance,
    least_factor,
    perturbed,
    rounded,
    scaled,
    sorted_start,
    tolerated_ratio,
    toward_one,
)
from torchpare.numerics.selection import drop_count

SHARES = st.lists(st.floats(0, 0.99), min_size=1, max_size=6)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 99))
def test_a_larger_layer_never_starts_with_the_smaller_sparsity(sizes: list[int], seed: int) -> None:
    start = sorted_start(np.array(sizes, dtype=float), np.random.default_rng(seed))
    assert ((start >= 0) & (start < 1)).all()
    for one, size in zip(start, sizes, strict=True):
        assert all(one >= other for other, smaller in zip(start, sizes, strict=True) if smaller < size)


def test_a_start_is_drawn_evenly_and_given_out_by_size() -> None:
    drawn = sorted(np.random.default_rng(7).uniform(size=5))
    start = sorted_start(np.array([30.0, 2.0, 400.0, 2.0, 50.0]), np.random.default_rng(7))
    assert start.tolist() == [drawn[2], drawn[0], drawn[4], drawn[1], drawn[3]]


@given(SHARES, st.floats(0, 1), st.integers(0, 99))
def test_a_perturbation_stays_within_its_width_and_above_zero(shares: list[float], width: float, seed: int) -> None:
    before = np.array(shares)
    after = perturbed(before, width, np.random.default_rng(seed))
    assert (after >= 0).all()
    assert (np.abs(after - before) <= width + 1e-12).all()


def test_a_perturbation_moves_every_entry_by_its_own_draw() -> None:
    draws = np.random.default_rng(3).uniform(-0.2, 0.2, 4)
    assert perturbed(np.full(4, 0.5), 0.2, np.random.default_rng(3)) == pytest.approx(0.5 + draws)


def test_steps_for_the_worse_are_taken_by_the_metropolis_rule() -> None:
    assert acceptance(-1.0, 0.5) == acceptance(0.0, 0.5) == acceptance(0.0, 0.0) == 1.0
    assert acceptance(1.0, 0.5) == pytest.approx(math.exp(-2))
    assert acceptance(1.0, 0.0) == 0.0
    assert acceptance(math.inf, 1.0) == 0.0


def test_a_scaled_direction_is_cut_off_layer_by_layer() -> None:
    assert scaled(np.array([0.1, 0.4]), 2.0, np.array([0.9, 0.5])).tolist() == [0.2, 0.5]


@given(SHARES, st.floats(0, 3), st.data())
def test_ratios_are_of_what_is_left(already: list[float], factor: float, data: st.DataObject) -> None:
    gone = np.array(already)
    ratios = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(gone), max_size=len(gone))))
    most = np.maximum(gone, 0.95)
    after = toward_one(gone, ratios, factor, most)
    for a, r, m, result in zip(gone, ratios, most, after, strict=True):
        assert result == pytest.approx(min(1 - (1 - a) * (1 - min(r * factor, 1)), m))
        assert result >= a - 1e-12


@given(st.floats(0, 1), st.integers(1, 40))
def test_the_least_factor_is_just_enough(limit: float, steps: int) -> None:
    def cost(factor: float) -> float:  # falls in steps, from 1 to 0
        return 1 - math.floor(factor * steps + 1e-9) / steps

    found = least_factor(cost, limit, 1.0)
    assert found is not None
    assert cost(found) <= limit
    assert found == 0 or cost(found - 2e-6) > limit


def test_there_is_no_factor_where_the_largest_is_too_little() -> None:
    assert least_factor(lambda factor: 2 - factor, 0.5, 1.0) is None


@pytest.mark.parametrize(
    ("scores", "tolerated"),
    [
        ({0.1: 0.9, 0.2: 0.86, 0.3: 0.84, 0.4: 0.9}, 0.2),  # the first that is over ends it
        ({0.1: 0.8}, 0.0),
        ({0.2: 0.9, 0.1: 0.95}, 0.2),
        ({0.1: math.nan, 0.2: 0.9}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_layer_tolerates_what_every_ratio_up_to_there_tolerates(scores: dict, tolerated: float) -> None:
    assert tolerated_ratio(scores, 0.9, 0.05) == tolerated


def test_a_layer_as_wide_as_the_multiple_keeps_all_of_it() -> None:
    assert rounded(0.5, 8, 8) == 0.0
    assert rounded(0.5, 7, 8) == pytest.approx(3 / 7)


@given(st.integers(1, 70), st.floats(0, 0.99), st.sampled_from([1, 2, 8, 16]))
def test_rounded_sparsities_keep_multiples_and_no_fewer_units(units: int, sparsity: float, multiple: int) -> None:
    share = rounded(sparsity, units, multiple)
    kept, asked = units - drop_count(units, share), units - drop_count(units, sparsity)
    assert asked <= kept < asked + multiple
    assert kept % multiple == 0 or kept == units or units < multiple
