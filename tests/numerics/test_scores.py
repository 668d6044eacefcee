"""Each score against the loop that says what it means."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.twins import scores as twins
from torchpare.numerics import filter_norm, geometric_median_distance, magnitude, random_scores

SHAPES = [(1, 1), (5, 3), (4, 3, 2), (6, 2, 3, 3), (3, 2, 2, 2, 2)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 2])
def test_filter_norm(shape, dtype, p):
    weight = torch.randn(shape).to(dtype)
    expected = torch.tensor(twins.filter_norm(weight, p), dtype=torch.float64)
    torch.testing.assert_close(filter_norm(weight, p=p), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_geometric_median_distance(shape, dtype):
    weight = torch.randn(shape).to(dtype)
    expected = torch.tensor(twins.geometric_median_distance(weight), dtype=torch.float64)
    torch.testing.assert_close(geometric_median_distance(weight), expected, rtol=1e-7, atol=1e-6)


@given(st.lists(st.lists(st.integers(-8, 8), min_size=3, max_size=3), min_size=1, max_size=40), st.integers(0, 40))
def test_filters_that_are_equal_have_equal_scores(rows, copy):
    weight = torch.tensor([*rows, rows[copy % len(rows)]], dtype=torch.float32)
    for score in (filter_norm(weight, p=1), filter_norm(weight, p=2), geometric_median_distance(weight)):
        assert score[-1] == score[copy % len(rows)]


def test_the_filter_in_the_middle_is_the_nearest_to_the_geometric_median():
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.4, 0.3], [0.0, 1.0]])
    assert int(geometric_median_distance(weight).argmin()) == 2


def test_half_precision_does_not_overflow():
    weight = torch.full((2, 4096), 60.0, dtype=torch.float16)
    assert filter_norm(weight, p=1).tolist() == [245760.0, 245760.0]


def test_magnitude():
    weight = torch.randn(3, 4)
    assert magnitude(weight).tolist() == [[abs(x) for x in row] for row in weight.tolist()]


def test_scores_leave_no_gradient_behind_and_the_weight_as_it_was():
    weight = torch.randn(4, 3, requires_grad=True)
    before = weight.detach().clone()
    for score in (filter_norm(weight, p=1), geometric_median_distance(weight), magnitude(weight)):
        assert not score.requires_grad
    assert torch.equal(weight.detach(), before)


def test_complex_filters_are_as_large_as_the_absolute_values_of_their_numbers():
    weight = torch.tensor([[3 + 4j, 0], [1, 1j], [0, 6j]])
    assert filter_norm(weight, p=1).tolist() == [5, 2, 6]


def test_random_scores_are_drawn_evenly_and_by_their_generator_alone():
    drawn = random_scores(4000, torch.Generator().manual_seed(3))
    for share in (0.1, 0.25, 0.5, 0.9):
        assert float((drawn < share).double().mean()) == pytest.approx(share, abs=0.03)
    torch.manual_seed(11)  # another process-wide seed changes nothing
    assert torch.equal(random_scores(4000, torch.Generator().manual_seed(3)), drawn)
    assert not torch.equal(random_scores(4000, torch.Generator().manual_seed(4)), drawn)
