"""Budgets are read as a person means them, and judged by the numbers alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchpare.recipe.budget import Budget, read_budget


def budget(text: str) -> Budget:
    return Budget.model_validate(read_budget(text))


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("accuracy >= 0.97", 0.97),
        ("accuracy>=97%", 0.97),
        ("accuracy >= dense", 0.9),
        ("accuracy >= dense - 0.01", 0.89),
        ("accuracy >= dense - 1 %", 0.89),
        ("accuracy <= dense + 2e-2", 0.92),
        ("parameters <= 0.5x", 500.0),
        ("parameters <= 1.2 M", 1.2e6),
        ("latency <= 5 ms", 5e-3),
        ("latency <= 250us", 250e-6),
        ("latency <= .5 s", 0.5),
        ("size <= 2 MB", 2e6),
        ("size <= 1MiB", 2**20),
        ("loss <= -1.5", -1.5),
    ],
)
def test_a_limit_is_what_the_words_say(text, limit):
    assert budget(text).limit({"accuracy": 0.9, "parameters": 1000.0}) == pytest.approx(limit)


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy = 3", "accuracy => 3", ">= 3", "accuracy >= 3 >= 2", "a >= ", ""]
)
def test_what_is_no_budget_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="is not understood; say a metric"):
        read_budget(text)


def test_an_unknown_unit_is_named():
    with pytest.raises(ValueError, match="unknown unit 'parsec'; known are x, %"):
        read_budget("latency <= 5 parsec")


@given(
    st.floats(-1e6, 1e6, allow_nan=False),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.sampled_from([">=", "<="]),
)
def test_a_plain_budget_is_a_comparison(value, limit, bound):
    verdict = budget(f"loss {bound} {limit!r}").judge({"loss": value}, {})
    assert verdict.holds == (value >= limit if bound == ">=" else value <= limit)


@given(st.floats(0.01, 10), st.floats(0.1, 1e6), st.floats(0.1, 1e6))
def test_a_multiple_is_of_the_dense_model(factor, value, dense):
    assert budget(f"macs <= {factor!r}x").judge({"macs": value}, {"macs": dense}).holds == (value <= dense * factor)


@pytest.mark.parametrize("bound", [">=", "<="])
def test_what_is_not_known_is_not_met(bound):
    for metrics in ({}, {"accuracy": math.nan}):
        assert not budget(f"accuracy {bound} 0.5").judge(metrics, {}).holds
    missed = budget("accuracy >= dense").judge({"accuracy": 1.0}, {})
    assert not missed.holds
    assert "the dense model's accuracy is not known" in str(missed)
    assert "there is no accuracy here; known are loss" in str(budget("accuracy >= 1").judge({"loss": 1.0}, {}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency <= 5 ms", "latency <= 5 ms: missed, latency is 20 ms"),
        ("accuracy >= 97 %", "accuracy >= 97 %: missed, accuracy is 90 %"),
        ("accuracy >= dense - 1 %", "accuracy >= dense - 1 %: missed, accuracy is 90 % and the limit 93 %"),
        ("latency <= 0.5x", "latency <= 0.5x: missed, latency is 0.02 and the limit 0.005"),
        ("size <= 2 MB", "size <= 2 MB: met, size is 1.5 MB"),
        ("parameters <= 5x", "parameters <= 5x: met, parameters is 5 and the limit 5"),
    ],
)
def test_a_verdict_answers_in_the_unit_that_was_asked_in(text, said):
    metrics = {"latency": 0.02, "accuracy": 0.9, "size": 1.5e6, "parameters": 5.0}
    dense = {"latency": 0.01, "accuracy": 0.94, "parameters": 1.0}
    assert str(budget(text).judge(metrics, dense)) == said


def test_percent_of_what_is_no_share_is_refused():
    for text in ("accuracy >= 97 %", "accuracy >= dense - 1 %", "loss <= dense + 1%"):
        verdict = budget(text).judge({"accuracy": 98.5, "loss": 2.0}, {"accuracy": 99.0, "loss": 2.0})
        assert not verdict.holds
        assert "no share of 1, so that % says nothing" in str(verdict)
    assert budget("accuracy >= 97 %").judge({"accuracy": 0.98}, {}).holds


def test_what_is_not_a_number_misses_every_budget():
    for text in ("loss <= 3", "loss >= 3", "loss <= 2x", "loss >= dense"):
        verdict = budget(text).judge({"loss": math.nan}, {"loss": 1.0})
        assert not verdict.holds
        assert str(verdict) == f"{text}: missed, loss is not a number"
