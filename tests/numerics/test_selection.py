"""Exactly as many units go as were asked for, and which ones, against the slow way of choosing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.twins import scores as twins
from torchpare.numerics import drop_count, keep_highest, select_common


@pytest.mark.parametrize(
    ("units", "sparsity", "drop"),
    [
        (10, 0.3, 3), (10, 0.29999999, 3), (100, 0.57, 57), (100, 0.29, 29), (10, 0.7, 7), (3, 1 / 3, 1), (7, 0.5, 3),
        (10, 0.0, 0), (1, 0.99, 0), (2, 0.99, 1), (2, 0.4, 0), (16, 0.999, 15), (16, 0.99999999, 15), (0, 0.5, 0),
        (10**8, 0.123456789, 12345678),
    ],
)  # fmt: skip
def test_how_many_go(units, sparsity, drop):
    assert drop_count(units, sparsity) == drop


@given(st.integers(1, 5000), st.integers(0, 999))
def test_a_sparsity_in_thousandths_is_taken_at_its_word(units, thousandths):
    assert drop_count(units, thousandths / 1000) == min(units * thousandths // 1000, units - 1)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_the_lowest_go_and_the_first_among_equals(scores, data):
    drop = data.draw(st.integers(0, len(scores) - 1))
    keep = keep_highest(torch.tensor(scores, dtype=torch.float32), drop)
    assert keep.tolist() == twins.keep_highest(scores, drop)
    assert int((~keep).sum()) == drop


def test_a_constant_weight_loses_exactly_what_was_asked():
    keep = keep_highest(torch.ones(4, 5), 7)
    assert keep.shape == (4, 5)
    assert keep.flatten().tolist() == [False] * 7 + [True] * 13


def test_what_is_at_minus_infinity_goes_first():
    keep = keep_highest(torch.tensor([0.0, -torch.inf, -1.0, -torch.inf]), 3)
    assert keep.tolist() == [True, False, False, False]


@st.composite
def spaces(draw):
    """Layers whose channels are spread over a few cells; classes repeat within and across layers; some are frozen."""
    cell_of = {k: draw(st.integers(1, 3)) for k in range(9)}
    layers = [f"layer{at}" for at in range(draw(st.integers(1, 4)))]
    classes = {name: draw(st.lists(st.integers(0, 8), min_size=2, max_size=9)) for name in layers}
    cells = {name: [cell_of[k] for k in ids] for name, ids in classes.items()}
    chosen = [name for name in layers if draw(st.integers(0, 3))]
    scores = {name: [float(draw(st.integers(0, 5))) for _ in classes[name]] for name in chosen}
    sparsities = {name: draw(st.sampled_from([0.0, 0.25, 0.5, 0.75])) for name in chosen}
    return scores, sparsities, classes, cells


@given(spaces())
@settings(max_examples=400)
def test_dependency_aware_selection(space):
    scores, sparsities, classes, cells = space
    keep = select_common(
        {name: torch.tensor(own) for name, own in scores.items()},
        sparsities,
        {name: np.array(ids) for name, ids in classes.items()},
        {name: np.array(ids) for name, ids in cells.items()},
    )
    assert {name: kept.tolist() for name, kept in keep.items()} == twins.select_common(
        scores, sparsities, classes, cells
    )


def test_two_layers_on_a_residual_lose_the_same_channels():
    ids = np.array([1, 2, 3, 4])
    keep = select_common(
        {"a": torch.tensor([4.0, 1.0, 2.0, 3.0]), "b": torch.tensor([0.0, 9.0, 3.0, 4.0])},
        {"a": 0.5, "b": 0.5},
        {"a": ids, "b": ids},
        {"a": np.ones(4, int), "b": np.ones(4, int)},
    )
    assert keep["a"].tolist() == keep["b"].tolist() == [False, True, False, True]  # the sums are 4, 10, 5, 7


def test_the_layer_with_the_larger_sparsity_prunes_further_on_its_own():
    ids = np.array([1, 2, 3, 4])
    keep = select_common(
        {"a": torch.tensor([4.0, 1.0, 2.0, 3.0]), "b": torch.tensor([0.0, 9.0, 3.0, 4.0])},
        {"a": 0.25, "b": 0.75},
        {"a": ids, "b": ids},
        {"a": np.ones(4, int), "b": np.ones(4, int)},
    )
    assert keep["a"].tolist() == [False, True, True, True]
    assert keep["b"].tolist() == [False, True, False, False]


def test_a_class_with_many_channels_in_one_layer_goes_whole():
    keep = select_common(
        {"a": torch.tensor([0.0, 0.0, 0.0, 1.0])}, {"a": 0.5}, {"a": np.array([1, 1, 1, 2])}, {"a": np.ones(4, int)}
    )
    assert keep["a"].tolist() == [False, False, False, True]


def test_a_layer_that_was_not_selected_holds_its_cell_back():
    ids = np.array([1, 2, 3, 4])
    keep = select_common(
        {"a": torch.tensor([4.0, 1.0, 2.0, 3.0])},
        {"a": 0.5},
        {"a": ids, "b": ids},
        {"a": np.ones(4, int), "b": np.ones(4, int)},
    )
    assert keep["a"].tolist() == [True, False, False, True]  # by its own scores alone


def test_a_layer_that_the_engine_did_not_see_is_pruned_on_its_own():
    keep = select_common({"a": torch.tensor([2.0, 1.0])}, {"a": 0.5}, {}, {})
    assert keep["a"].tolist() == [True, False]
