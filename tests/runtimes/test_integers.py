from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchpare.errors import QuantizationError
from torchpare.numerics.affine import Grid, dequantize, quantize, scale_and_zero_point
from torchpare.runtimes.biases import with_room
from torchpare.runtimes.integers import Step, Stored, step_of, store, stored_levels
from torchpare.runtimes.operators import rounded


@given(
    bits=st.integers(1, 8),
    signed=st.booleans(),
    symmetric=st.booleans(),
    channels=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_weight_on_any_grid_of_up_to_eight_bits_is_stored_to_the_bit(bits, signed, symmetric, channels, seed):
    grid = Grid(bits, signed=signed, symmetric=symmetric)
    weight = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(seed))
    rows = weight.flatten(1) if channels else weight.reshape(1, -1)
    shape = (5, 1, 1) if channels else ()
    low, high = rows.amin(1).reshape(shape), rows.amax(1).reshape(shape)
    scale, zero_point = scale_and_zero_point(low, high, grid)
    value = dequantize(quantize(weight, scale, zero_point, grid), scale, zero_point)
    held = store(value, scale, 0)
    assert isinstance(held, Stored)
    assert held.codes.dtype == torch.int8
    assert torch.equal(held.value, value)


def test_few_levels_are_spread_so_that_steps_are_fine_but_not_so_far_that_sums_saturate():
    held = stored_levels(torch.tensor([[-8, 7], [3, -1], [0, 0]]), torch.tensor([0.5, 0.25, 1.0]), 0)
    assert held.codes.tolist() == [[-64, 56], [48, -16], [0, 0]]
    assert held.scale.tolist() == [0.5 / 8, 0.25 / 16, 1.0]
    assert held.zero_point.tolist() == [0, 0, 0]


def test_levels_that_only_fit_with_a_zero_point_get_one():
    held = stored_levels(torch.tensor([[0, 255], [-1, 128]]), torch.ones(2), 0)
    assert held.zero_point.tolist() == [-128, -127]
    assert held.levels.tolist() == [[0, 255], [-1, 128]]


def test_what_does_not_fit_says_why():
    assert "span 301 levels" in stored_levels(torch.tensor([0, 300]), torch.ones(()), 0)
    assert "no whole multiples" in store(torch.tensor([[0.5]]), torch.ones(()), 0)
    assert "each group" in store(torch.zeros(4, 6), torch.ones(4, 2, 1), 0)
    assert "16 bits" in step_of(torch.ones(()), torch.zeros(()), Grid(16))
    assert "each channel" in step_of(torch.ones(3), torch.zeros(3), Grid(8))
    with pytest.raises(QuantizationError, match="a scale of 0"):
        step_of(torch.zeros(()), torch.zeros(()), Grid(8))


def test_grids_of_fewer_bits_are_cut_out_of_one_of_eight():
    x = torch.linspace(-3, 3, 101)
    step = step_of(torch.tensor(0.25), torch.tensor(3), Grid(3))
    assert isinstance(step, Step)
    assert not step.whole
    assert set(((rounded(x, step) / 0.25).round() + 3).int().tolist()) == set(range(8))
    assert step_of(torch.tensor(0.25), torch.tensor(3), Grid(8)).whole
    assert step_of(torch.tensor(0.25), torch.tensor(0), Grid(8, signed=True, symmetric=True, narrow=True)).whole


def test_a_bias_that_int32_cannot_hold_gets_larger_steps_and_others_keep_theirs():
    held = stored_levels(torch.tensor([[127, -3], [127, -3]]), torch.tensor([1e-12, 0.1]), 0)
    made = with_room(held, torch.tensor([0.5, 0.5]), 0.01)
    assert float(0.5 / (made.scale[0] * 0.01)) <= 2**30 * 1.001
    assert torch.equal(made.codes[1], held.codes[1])
    assert made.scale[1] == held.scale[1]
    assert float((made.value - held.value).abs().max()) <= float(made.scale[0]) / 2
    assert with_room(held, torch.zeros(2), 0.01) is held


def test_a_channel_without_weights_gets_steps_in_which_its_bias_is_exact():
    held = store(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor(1.0), 0)
    made = with_room(held, torch.tensor([0.3, 1.0]), 0.5)
    assert torch.equal(made.value, held.value)
    step = 0.5 * made.scale
    assert abs(float((torch.tensor(0.3) / step[0]).round() * step[0]) - 0.3) < 1e-6
    assert made.scale[1] == held.scale  # a channel with weights keeps its own
    assert with_room(held, torch.zeros(2), 0.5) is held
