"""Annealing: which steps are taken and when it cools down, worked out beside it with numbers told beforehand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from torchpare.search import simulated_annealing
from torchpare.search.run import Trial
from torchpare.search.simulated_annealing import Annealing, anneal, brought_down


class _Drawn:
    """A generator that draws what it was told."""

    def __init__(self, number: float) -> None:
        self.number = number

    def uniform(self, *bounds: Any, size: int | None = None) -> Any:
        del bounds
        return self.number if size is None else np.full(size, self.number)


def annealed(
    scores: list[float], draws: list[float], cooling: Annealing, dense: float, workers: int, monkeypatch: Any
) -> tuple[list[Trial], list[str], list[float]]:
    """What a search with these scores looks at, from where each step starts, and how wide it is."""
    starts: dict[int, str] = {}
    widths: dict[int, float] = {}

    def perturbed(vector: Any, width: float, generator: Any) -> Any:
        number = int(generator.number)
        starts[number], widths[number] = f"trial {vector[0]:.0f}", width
        return np.array([float(number)])

    def try_all(stage: str, vectors: Any, *, places: Any = (0,), expected: int | None = None) -> list[Trial]:
        del stage, expected
        return [
            Trial(np.array([float(at)]), scores[at], scores[at], 1.0, f"trial {at}")
            for at in (places if len(vectors) == len(list(places)) else (0,))
        ]

    monkeypatch.setattr(simulated_annealing, "perturbed", perturbed)
    monkeypatch.setattr(simulated_annealing, "brought_down", lambda run, direction, limit, least: direction)
    run: Any = SimpleNamespace(
        limit=0.5, sizes=np.ones(1), dense=SimpleNamespace(vector=np.zeros(1), score=dense), try_all=try_all,
        # the second number asks whether to accept, the first alone for a step
        random=lambda number, *more: _Drawn(draws[number] if more else float(number)),
        executor=SimpleNamespace(workers=workers), journal=SimpleNamespace(drop_state=lambda key: None),
    )  # fmt: skip
    history = anneal(run, cooling)
    numbers = range(1, len(history))
    return history, [starts[number] for number in numbers], [widths[number] for number in numbers]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dense", [0.9, -2.0, 0.0])
def test_steps_are_taken_by_the_loss_in_tenths_of_the_dense_score(
    workers: int, seed: int, dense: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(seed)
    scores, draws = random.normal(0.5, 0.08, 400).tolist(), random.uniform(size=400).tolist()
    cooling = Annealing(100, 20, 0.7, 0.35)
    history, starts, widths = annealed(scores, draws, cooling, dense, workers, monkeypatch)

    now, temperature, rejected, number = 0, 100.0, 0, 0
    while temperature > 20:
        number += 1
        assert starts[number - 1] == f"trial {now}"
        assert widths[number - 1] == pytest.approx(0.35 * temperature / 100)
        tenth = 0.1 * abs(dense) if dense else 0.1
        lost = (scores[now] - scores[number]) / tenth
        taken = lost <= 0 or draws[number] < math.exp(-lost / (temperature / 100))
        now, rejected = (number, 0) if taken else (now, rejected + 1)
        if taken or rejected == 10:
            temperature, rejected = 0.7 * temperature, 0
    assert [trial.score for trial in history] == scores[: number + 1]


def test_by_its_defaults_it_cools_down_sixteen_times() -> None:
    assert Annealing().coolings == 16
    temperature, times = 80.0, 0
    while temperature > 7:
        temperature, times = temperature * 0.6, times + 1
    assert Annealing(80, 7, 0.6, 0.1).coolings == times


def test_a_direction_is_scaled_with_a_little_of_every_layer_between_what_is_gone_and_the_most() -> None:
    run: Any = SimpleNamespace(most=np.array([0.9, 0.5, 0.9]), meet=lambda candidate, limit: candidate(2.0))
    found = brought_down(run, np.array([0.1, 0.4, 0.0]), 0.5, np.array([0.3, 0.0, 0.0]))
    assert found == pytest.approx([0.3, 0.5, 0.002])
