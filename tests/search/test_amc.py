"""AMC: what its agent is shown, what it may say, what that is worth and which episode wins, each worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.search.nets import CONVOLUTIONS, Chain, example, likelihood, trained
from torchpare.errors import ConfigError
from torchpare.pruning import AMCPruner
from torchpare.search.amc import REWARDS
from torchpare.search.amc_walk import Bounds, Walk, features
from torchpare.search.run import Trial

WEIGHTS = (100.0, 300.0, 200.0)
UNITS = (8, 16, 6)
MOST = (0.75, 0.5, 5 / 6)


def cost(vector: Any) -> float:
    """What is left of three layers."""
    return sum(weight * (1 - share) for weight, share in zip(WEIGHTS, vector, strict=True))


class _Run(SimpleNamespace):
    """What a walk asks of a search."""

    @property
    def zeros(self) -> Any:
        return np.zeros(3)  # a new one each time


def a_run(limit: float = 300.0, scores: Iterator[float] | None = None) -> Any:
    """A search over three layers whose cost is their weights, with scores that are told beforehand."""
    dropped: list[str] = []

    def try_all(stage: str, vectors: Any, *, places: Any, expected: int) -> list[Trial]:
        assert (stage, expected) == ("episodes", 5)
        score = next(scores or iter(()))
        gain = -math.inf if math.isnan(score) else score
        return [Trial(vectors[0], score, gain, cost(vectors[0]), f"episode {places[0]}")]

    return _Run(
        dense=SimpleNamespace(cost=cost((0, 0, 0))), cost=cost, limit=limit, most=np.array(MOST),
        variables=tuple(SimpleNamespace(units=units) for units in UNITS), try_all=try_all,
        journal=SimpleNamespace(drop_state=dropped.append), dropped=dropped,
    )  # fmt: skip


def test_the_agent_is_told_what_is_gone_and_what_can_still_go() -> None:
    walk = Walk(a_run(), Bounds(0.1, 1.0, 1), REWARDS["acc_reward"], 5)
    # 600 at first; half of the first layer makes 550; then at most 150 and 200 * 5 / 6 can go.
    assert walk.progress([0.5]) == pytest.approx((50 / 600, (150 + 200 * 5 / 6) / 600))
    assert walk.progress([]) == pytest.approx((0.0, (75 + 150 + 200 * 5 / 6) / 600))


def _allowed(taken: list[float], keep: float, bounds: Bounds, limit: float) -> float:
    """Try the widths one after the other, from the one that was said downwards."""
    at = len(taken)
    units, step = UNITS[at], bounds.multiple
    # Multiples, where the layer is that wide; below the first one, where the budget asks for less, every width.
    multiples = [kept for kept in range(1, units + 1) if kept % step == 0 or units < step]
    said = min(max(keep, bounds.least), bounds.most) * units
    begin = next((width for width in multiples if width >= said - 1e-9), multiples[-1])
    least = {8: 2, 16: 8, 6: 1}[units]
    for width in sorted({*multiples, *range(1, min(step, units))}, reverse=True):
        if width > begin:
            continue
        rest = [*(1 - one for one in taken), 1 - width / units, *MOST[at + 1 :]]
        if cost(np.minimum(rest, MOST)) <= limit or width <= least:
            return max(width, least) / units
    return least / units


@given(
    st.floats(0, 1), st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0]), max_size=2), st.sampled_from([1, 2, 4]),
    st.sampled_from([0.1, 0.3, 0.6]), st.sampled_from([0.7, 0.9, 1.0]), st.sampled_from([250.0, 300.0, 450.0, 600.0]),
)  # fmt: skip
def test_a_share_is_moved_to_the_nearest_width_that_bounds_and_budget_allow(
    keep: float, taken: list[float], multiple: int, least: float, most: float, limit: float
) -> None:
    bounds = Bounds(least, most, multiple)
    found = Walk(a_run(limit), bounds, REWARDS["acc_reward"], 5).allowed(taken, keep)
    assert found == pytest.approx(_allowed(taken, keep, bounds, limit))


def test_an_agent_is_held_to_its_bounds() -> None:
    walk = Walk(a_run(limit=600.0), Bounds(0.4, 0.7, 1), REWARDS["acc_reward"], 5)
    assert [walk.allowed([], keep) for keep in (1.0, 0.6, 0.0)] == [6 / 8, 5 / 8, 4 / 8]
    assert Walk(a_run(limit=600.0), Bounds(0.1, 1.0, 4), REWARDS["acc_reward"], 5).allowed([], 0.3) == 4 / 8


def test_an_agent_that_would_keep_everything_is_held_to_the_budget() -> None:
    walk = Walk(a_run(limit=330.0), Bounds(0.1, 1.0, 1), REWARDS["acc_reward"], 5)
    taken: list[float] = []
    for _ in WEIGHTS:
        taken.append(walk.allowed(taken, 1.0))
    # 100 + 300 leave the third no room for what it cannot lose, 33 of 200: of the second 9 of 16 go on.
    assert taken == [1.0, 10 / 16, 1 / 6]
    assert cost([1 - keep for keep in taken]) <= 330.0 < cost([0.0, 1 - 11 / 16, 5 / 6])


def test_the_episode_with_the_largest_reward_wins_and_the_others_are_forgotten() -> None:
    scores = [0.3, 0.9, math.nan, 0.95, 0.5]
    run = a_run(scores=iter(scores))

    def reward(gain: float, cost: float) -> float:
        return gain - cost / 600

    walk = Walk(run, Bounds(0.1, 1.0, 1), reward, 5)
    taken = [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [1.0, 0.5, 1.0], [1.0, 1.0, 0.5], [0.25, 0.5, 0.5]]
    found = [walk.reward(one) for one in taken]
    assert found == pytest.approx([0.3 - 1, 0.9 - 0.5, -1.0, 0.95 - 500 / 600, 0.5 - 275 / 600])
    assert walk.best is not None
    assert (walk.best.score, walk.best.key) == (0.9, "episode 2")
    assert walk.best.vector.tolist() == [0.5, 0.5, 0.5]
    assert run.dropped == [f"episode {number}" for number in (1, 3, 4, 5)]


def test_rewards_are_those_of_scripts() -> None:
    assert REWARDS["acc_reward"](75.0, 1e9) == pytest.approx(0.75)
    assert REWARDS["acc_flops_reward"](75.0, math.e**3) == pytest.approx(-0.25 * 3)
    assert REWARDS["acc_flops_reward"](100.0, 5.0) == 0.0


def test_of_a_layer_the_agent_is_shown_kind_shape_stride_weights_and_what_it_can_give() -> None:
    run = a_run()
    run.variables = tuple(
        SimpleNamespace(name=name, units=units, weights=weights)
        for name, units, weights in zip("abc", UNITS, WEIGHTS, strict=True)
    )
    layers = {"a": nn.Conv2d(4, 8, 3, stride=2), "b": nn.Conv2d(8, 16, (1, 5)), "c": nn.Linear(32, 6)}
    shown = [  # index, linear, outputs, inputs, kernel, stride, weights, what goes at most
        [0, 0, 8, 4, 9, 4, 100, 75],
        [1, 0, 16, 8, 5, 1, 300, 150],
        [2, 1, 6, 32, 1, 1, 200, 200 * 5 / 6],
    ]
    table = np.array(shown, dtype=float)
    expected = (table - table.min(0)) / (table.max(0) - table.min(0))
    assert features(run, layers) == pytest.approx(expected)


def test_the_agent_acts_in_a_world_where_a_step_is_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    amc_agent = pytest.importorskip("torchpare.search.amc_agent")
    table = np.array([[0.0, 0.5], [1.0, 0.25]])
    said: list[list[float]] = []
    made: dict[str, Any] = {}
    states: list[Any] = []

    class Recorder:
        def __init__(self, policy: str, world: Any, **options: Any) -> None:
            made.update(options, policy=policy)
            self.world = world

        def set_logger(self, logger: Any) -> None:
            """None is kept."""

        def learn(self, steps: int) -> None:
            made["steps"] = steps
            states.append(self.world.reset()[0])
            for action in (0.9, 0.2):
                state, reward, over, _, _ = self.world.step(np.array([action]))
                states.append(state)
                made.setdefault("rewards", []).append((reward, over))

    monkeypatch.setattr(amc_agent, "DDPG", Recorder)
    agent = amc_agent.Agent((5, 6), 1e-3, 3, 0.9, 4, 7, 0.01, 0.5, 0.5)
    amc_agent.learn(
        agent, 10, 1, table, lambda taken: (0.1 * len(taken), 0.9), lambda taken, action: action / 2,
        lambda taken: said.append(list(taken)) or 7.0,
    )  # fmt: skip
    assert made["rewards"] == [(0.0, False), (7.0, True)]
    assert said == [pytest.approx([0.45, 0.1])]
    expected = [[0.0, 0.5, 0.0, 0.9, 1.0], [1.0, 0.25, 0.1, 0.9, 0.45], [1.0, 0.25, 0.2, 0.9, 0.1]]
    for state, one in zip(states, expected, strict=True):
        assert state.tolist() == pytest.approx(one)
    # Ten episodes of two layers; what is remembered and waited for is counted in episodes.
    numbers = {"steps": 20, "buffer_size": 14, "learning_starts": 6, "batch_size": 4, "tau": 0.01, "gamma": 0.9}
    assert {name: made[name] for name in numbers} == numbers
    noise = made["action_noise"]
    for _ in range(5):
        noise.reset()
    assert noise._width == pytest.approx(0.5 * 0.5**2)  # it fades from the fourth episode on


@pytest.mark.parametrize(
    ("entries", "named", "share"),
    [
        ([{"op_types": ["Conv2d"]}], {"flops_ratio": 0.7}, 0.3),
        (CONVOLUTIONS, {"flops_ratio": 0.7}, 0.3),
        ([{"op_types": ["Conv2d"], "sparsity": 0.4}], {}, 0.4),
        ([{"op_types": ["Conv2d"]}], {}, 0.5),
    ],
)
def test_the_budget_is_what_flops_ratio_leaves_or_the_entries_or_half(
    entries: Any, named: Any, share: float, tmp_path: Path
) -> None:
    pruner = AMCPruner(trained(Chain), entries, likelihood, output_dir=tmp_path, **named)
    assert pruner.sparsity == pytest.approx(share)


def test_all_arguments_may_stand_in_the_older_toolkits_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = object()

    def with_loader(data: Any, model: nn.Module) -> float:
        assert data is loader
        return likelihood(model)

    pruner = AMCPruner(
        trained(Chain), CONVOLUTIONS, with_loader, loader, None, "mobilenet", "cifar10", 0.6, 0.3, 0.9,
        "acc_flops_reward", 60, 10, 2, 30, 40, 2e-3, 1e-4, 7, 0.8, 16, 50, 1, 0.02, 0.4, 0.9, 1e9, str(tmp_path), False,
        9, 50000, 3,
    )  # fmt: skip
    found = (pruner.flops_ratio, pruner.lbound, pruner.rbound, pruner.channel_round, pruner.train_episode, pruner.seed)
    assert found == (0.6, 0.3, 0.9, 2, 9, 3)
    assert pruner.reward is REWARDS["acc_flops_reward"]
    assert pruner.ddpg == {
        "hidden": (30, 40), "learning_rate": 2e-3, "warmup": 7, "discount": 0.8, "batch_size": 16, "memory": 50,
        "tau": 0.02, "noise": 0.4, "noise_decay": 0.9,
    }  # fmt: skip
    assert pruner.folder == tmp_path
    assert "window_length have no meaning here" in caplog.text

    ddpg = {"bsize": 8, "window_length": 1, "epsilon": 100}
    later = AMCPruner(
        4, trained(Chain), CONVOLUTIONS, example(), likelihood, "l2", str(tmp_path), False, None, ddpg, {}, "params"
    )
    assert (later.train_episode, later.base_algo, later.objective.metric) == (4, "l2", "params")
    assert later.ddpg["batch_size"] == 8
    assert "of ddpg_params epsilon, window_length have no meaning" in caplog.text


def test_arguments_that_are_too_many_too_few_or_said_twice_are_told(tmp_path: Path) -> None:
    model = trained(Chain)
    with pytest.raises(ConfigError, match="33 arguments by position; there are 32: model, config_list, evaluator"):
        AMCPruner(model, CONVOLUTIONS, likelihood, *[None] * 30)
    with pytest.raises(ConfigError, match="val_loader is given by position and by name"):
        AMCPruner(model, CONVOLUTIONS, likelihood, None, val_loader=None, output_dir=tmp_path)
    with pytest.raises(ConfigError, match="after a number of episodes come the model"):
        AMCPruner(3, model, CONVOLUTIONS, example())
