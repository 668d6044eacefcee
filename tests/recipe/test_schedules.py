"""Learning rates go as the papers say."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchpare.recipe.schedules import factor


@given(st.sampled_from(["constant", "linear", "cosine", "one_cycle"]), st.integers(1, 200), st.floats(0, 0.9))
def test_a_factor_is_never_outside_0_and_1_and_warms_up_to_1(schedule, steps, warmup):
    found = [factor(schedule, step, steps, warmup) for step in range(steps + 3)]
    assert all(-1e-12 <= value <= 1 + 1e-12 for value in found)
    rising = round(warmup * steps)
    assert all(earlier < later for earlier, later in pairwise(found[:rising]))
    if rising:
        assert found[rising - 1] == 1.0


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_cosine_and_linear_are_torch_s(steps):
    for schedule, make in (
        ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=steps)),
        ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 1e-30, total_iters=steps)),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = make(optimizer)
        for step in range(steps):
            assert factor(schedule, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
            optimizer.step()
            scheduler.step()


def test_one_cycle_rises_over_three_tenths_and_falls():
    found = [factor("one_cycle", step, 100) for step in range(101)]
    assert found[0] == pytest.approx(0.04)
    assert max(found) == found[30] == pytest.approx(1.0)
    assert found[100] == pytest.approx(0.0, abs=1e-12)
    assert found[65] == pytest.approx((1 + math.cos(math.pi * 0.5)) / 2)
