"""Schedules against the formula of each paper, and the laws they share."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchpare.numerics import SCHEDULES, at_epoch, compound, cubic, linear, with_warm_up

share = st.floats(0, 1)


def test_cubic_is_the_formula_of_zhu_and_gupta():
    start, count, every = 4, 5, 2
    for epoch in range(start, start + count * every + 1, every):
        expected = 0.8 + (0.1 - 0.8) * (1 - (epoch - start) / (count * every)) ** 3
        at = at_epoch(epoch, start=start, end=start + count * every + 1, every=every)
        assert cubic(0.1, 0.8, at) == pytest.approx(expected, abs=1e-15)


def test_compound_prunes_the_same_share_of_what_survived_in_every_round():
    rounds, final = 5, 0.8
    left = [1 - compound(0, final, at / rounds) for at in range(rounds + 1)]
    for before, after in itertools.pairwise(left):
        assert after / before == pytest.approx(0.2 ** (1 / rounds))
    assert left[0] == 1
    assert left[-1] == pytest.approx(0.2)


def test_linear_is_a_line():
    assert [linear(0.2, 0.6, at) for at in (0, 0.25, 0.5, 1)] == pytest.approx([0.2, 0.3, 0.4, 0.6])


@pytest.mark.parametrize("name", SCHEDULES)
@given(initial=share, final=share, steps=st.lists(share, min_size=2, max_size=9))
def test_a_schedule_runs_from_one_end_to_the_other_and_never_back(name, initial, final, steps):
    schedule = SCHEDULES[name]
    low, high = min(initial, final), max(initial, final)
    values = [schedule(low, high, at) for at in sorted(steps)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in values)
    assert schedule(low, high, 1.0) == pytest.approx(high)
    assert schedule(low, high, 7.0) == schedule(low, high, 1.0)
    assert name == "one_shot" or schedule(low, high, -1.0) == pytest.approx(low)


@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 5), st.integers(0, 60))
def test_the_epochs_of_the_older_toolkit(start, epochs, every, epoch):
    """s_t depends on (t - start) / (((end - start - 1) // every) * every), and is the final one behind the end."""
    end = start + epochs
    at = at_epoch(epoch, start=start, end=end, every=every)
    span = ((end - start - 1) // every) * every
    if epoch < start:
        assert at == 0
    elif span == 0 or epoch >= end:
        assert at == 1
    elif (epoch - start) % every == 0:
        assert at == pytest.approx((epoch - start) / span)


def test_warm_up_and_cool_down_are_flat():
    assert [with_warm_up(step, warm_up=10, cool_down=20) for step in (0, 10, 15, 20, 99)] == [0, 0, 0.5, 1, 1]
    assert with_warm_up(5, warm_up=5, cool_down=5) == 0


def test_an_epoch_between_two_moves_counts_as_the_last_move():
    assert [at_epoch(epoch, start=2, end=11, every=4) for epoch in range(13)] == [0.0] * 6 + [0.5] * 4 + [1.0] * 3


def test_everything_goes_at_once_where_the_schedule_says_so():
    assert [SCHEDULES["one_shot"](0.1, 0.8, at) for at in (0.0, 0.3, 1.0)] == [0.8] * 3
