"""Learnt rounding: the formulas of the paper, and that nothing leaves the grid."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from torchpare.numerics.affine import Grid, fake_quantize, scale_and_zero_point
from torchpare.numerics.ranges import min_max
from torchpare.numerics.rounding import annealed, lower_codes, rounding_penalty, rounding_start, share_up


def test_the_share_is_a_stretched_sigmoid_cut_at_both_ends():
    for v in (-9.0, -2.5, -1.0, 0.0, 0.3, 2.0, 9.0):
        expected = min(max(1.2 / (1 + math.exp(-v)) - 0.1, 0.0), 1.0)
        assert abs(share_up(torch.tensor(v, dtype=torch.float64)).item() - expected) < 1e-12


@given(st.floats(0, 1))
def test_rounding_starts_where_the_weight_was(fraction):
    start = rounding_start(torch.tensor(fraction, dtype=torch.float64))
    assert abs(share_up(start).item() - fraction) < 1e-9


def test_the_penalty_is_zero_where_all_is_decided_and_counts_what_is_not():
    assert rounding_penalty(torch.tensor([0.0, 1.0, 1.0]), 3).item() == 0
    assert rounding_penalty(torch.full((4,), 0.5), 3).item() == 4
    assert abs(rounding_penalty(torch.tensor([0.75]), 2).item() - 0.75) < 1e-6


def test_the_exponent_waits_then_falls_as_half_a_cosine():
    assert [round(annealed(done), 6) for done in (0, 0.1, 0.2, 0.6, 1)] == [20, 20, 20, 11, 2]


@given(st.integers(1, 16), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_both_neighbours_lie_on_the_grid_with_the_weight_between_them(bits, signed, symmetric, seed):
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed))
    grid = Grid(bits, signed, symmetric)
    scale, zero_point = scale_and_zero_point(*min_max(weight, (1,)), grid)
    below, fraction, undecided = lower_codes(weight, scale, zero_point, grid)
    assert bool(((below >= grid.qmin) & (below + undecided <= grid.qmax)).all())
    assert bool((below == below.round()).all())
    assert bool((fraction[~undecided] == 0).all())
    down, up = ((below + step - zero_point) * scale for step in (0, undecided))
    assert bool(((down <= weight + 1e-6) | ~undecided).all())
    assert bool(((up >= weight - 1e-6) | ~undecided).all())
    settled = (down - fake_quantize(weight, scale, zero_point, grid)).abs()[~undecided]
    assert bool((settled <= 1e-6 * scale.max()).all())


def test_a_weight_on_the_grid_has_nothing_to_decide():
    grid = Grid(4, signed=True, symmetric=True, narrow=True)
    weight = torch.tensor([-7.0, -3.0, 0.0, 2.5, 7.0]) * 0.1
    scale, zero_point = scale_and_zero_point(*min_max(weight), grid)
    below, _, undecided = lower_codes(weight, scale, zero_point, grid)
    assert below.tolist() == [-7, -3, 0, 2, 7]
    assert undecided.tolist() == [False, False, False, True, False]
