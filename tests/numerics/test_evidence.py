"""What data says about importance, against loops, against autograd and against the loss itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.twins import evidence as twins
from torchpare.numerics import (
    activation_sums,
    first_order,
    first_order_of_activations,
    second_order,
    select_global,
)

SHAPES = [(4,), (5, 3), (6, 2, 3, 3), (3, 2, 2, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["first_order", "second_order"])
def test_filters_against_the_loop(shape, dtype, name):
    weight, other = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    expected = torch.tensor(getattr(twins, name)(weight, other), dtype=torch.float64)
    score = {"first_order": first_order, "second_order": second_order}[name]
    torch.testing.assert_close(score(weight, other), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 7), (3, 2, 4, 4)])
def test_activations_against_the_loop(shape):
    z, g = torch.randn(shape).relu(), torch.randn(shape)
    expected = torch.tensor(twins.first_order_of_activations(z, g), dtype=torch.float64)
    torch.testing.assert_close(first_order_of_activations(z, g, axis=1), expected, rtol=1e-12, atol=1e-15)
    last = first_order_of_activations(z.movedim(1, -1), g.movedim(1, -1), axis=-1)
    torch.testing.assert_close(last, expected, rtol=1e-12, atol=1e-15)
    active, total, entries = activation_sums(z, axis=1)
    assert (active.tolist(), entries) == twins.activation_sums(z)[::2]
    torch.testing.assert_close(total, torch.tensor(twins.activation_sums(z)[1], dtype=torch.float64))


def test_activations_below_zero_count_and_take_away():
    z = torch.tensor([[[1.0, -3.0, 0.0], [-1.0, -2.0, 0.5]], [[0.0, 0.0, 2.0], [0.25, 0.0, 4.0]]])
    active, total, entries = activation_sums(z, axis=1)
    assert (active.tolist(), total.tolist(), entries) == ([3, 5], [0.0, 1.75], 6)


def test_the_first_order_is_what_the_loss_changes_by_while_changes_are_small():
    weight = torch.randn(4, 3, dtype=torch.float64) * 1e-7
    weight.requires_grad_()
    x, y = torch.randn(8, 3).double(), torch.randn(8, 4).double()

    def loss(w):
        return ((x @ w.T - y) ** 2).sum()

    (grad,) = torch.autograd.grad(loss(weight), weight)
    changes = []
    for row in range(4):
        total = 0.0
        for column in range(3):
            without = weight.detach().clone()
            without[row, column] = 0
            total += float(loss(without) - loss(weight.detach())) ** 2
        changes.append(total)
    torch.testing.assert_close(first_order(weight, grad), torch.tensor(changes).double(), rtol=1e-3, atol=0)


def test_the_second_order_is_what_the_loss_changes_by_at_the_minimum_of_a_parabola():
    x = torch.randn(16, 1).double()
    weight = torch.randn(3, 1).double()
    y = x @ weight.T

    def loss(w):
        return ((x @ w.T - y) ** 2).sum()

    curvature = torch.autograd.functional.hessian(loss, weight)
    diagonal = torch.einsum("abab->ab", curvature)
    for row in range(3):
        without = weight.clone()
        without[row] = 0
        torch.testing.assert_close(second_order(weight, diagonal)[row], loss(without))


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=6), min_size=1, max_size=5),
    st.floats(0, 0.999),
    st.dictionaries(st.integers(0, 4).map(str), st.floats(0, 1)),
)
def test_all_layers_together_against_the_loop(layers, sparsity, most):
    scores = {str(at): torch.tensor(own, dtype=torch.float32) for at, own in enumerate(layers)}
    expected = twins.select_global({layer: own.tolist() for layer, own in scores.items()}, sparsity, most)
    found = select_global(scores, sparsity, most)
    assert {layer: keep.tolist() for layer, keep in found.items()} == expected
    assert all(keep.any() for keep in found.values())
