"""AMC: an agent learns, layer by layer, how much to keep."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from torchpare.errors import ConfigError, MissingExtraError
from torchpare.pruning.ranked import Criterion
from torchpare.pruning.training import checked_batches
from torchpare.search.amc_walk import Bounds, Walk, features
from torchpare.search.base import SearchPruner
from torchpare.search.executors import Executors
from torchpare.search.fingerprint import of_code
from torchpare.search.objective import Metric, Objective
from torchpare.search.run import SearchRun, Trial
from torchpare.search.trial import seeded

__all__ = ["REWARDS", "AMCPruner"]

log = logging.getLogger(__name__)

Reward = Callable[[float, float], float]


def _accuracy(score: float, cost: float) -> float:
    del cost
    return 0.01 * score


def _accuracy_and_cost(score: float, cost: float) -> float:
    return -(100.0 - score) * 0.01 * math.log(max(cost, 1.0 + 1e-9))


REWARDS: dict[str, Reward] = {"acc_reward": _accuracy, "acc_flops_reward": _accuracy_and_cost}
"""By the names that scripts give: of a score in percent, larger being better, and a cost. With a share of errors ``e``
they are ``1 - e`` and ``-e * log(cost)``, the rewards of the paper's section 3 (the first one up to a constant)."""

_WITHOUT_EFFECT = frozenset({
    "suffix", "model_type", "dataset", "n_calibration_batches", "n_points_per_layer", "window_length", "lr_a",
    "max_episode_length", "debug", "epsilon", "keep_intermediate_result", "pruning_params",
})  # fmt: skip


_EARLIER = (
    "model", "config_list", "evaluator", "val_loader", "suffix", "model_type", "dataset", "flops_ratio", "lbound",
    "rbound", "reward", "n_calibration_batches", "n_points_per_layer", "channel_round", "hidden1", "hidden2", "lr_c",
    "lr_a", "warmup", "discount", "bsize", "rmsize", "window_length", "tau", "init_delta", "delta_decay",
    "max_episode_length", "output_dir", "debug", "train_episode", "epsilon", "seed",
)  # fmt: skip
_LATER = (
    "total_episode", "model", "config_list", "dummy_input", "evaluator", "pruning_algorithm", "log_dir",
    "keep_intermediate_result", "finetuner", "ddpg_params", "pruning_params", "target",
)  # fmt: skip


def _by_name(constructor: Callable[..., None]) -> Callable[..., None]:
    """A constructor that takes all its arguments by position too, in the order of either version of the older toolkit.

    Which one it is shows in the first argument: a number of episodes, or the model.
    """

    @functools.wraps(constructor)
    def ordered(self: AMCPruner, *given: Any, **named: Any) -> None:
        later = bool(given) and isinstance(given[0], int)
        order = _LATER if later else _EARLIER
        if len(given) > len(order):
            raise ConfigError(f"AMCPruner: {len(given)} arguments by position; there are {len(order)}: "
                              f"{', '.join(order)}")  # fmt: skip
        placed = dict(zip(order, given, strict=False))
        twice = next((name for name in placed if name in named), None)
        if twice is not None:
            raise ConfigError(f"AMCPruner: {twice} is given by position and by name; say it once")
        if later and not {*placed, *named} >= {"model", "config_list", "evaluator"}:
            raise ConfigError("AMCPruner: after a number of episodes come the model, the config_list, dummy_input and "
                              "the evaluator")  # fmt: skip
        constructor(self, **placed, **named)

    return ordered


class AMCPruner(SearchPruner):
    """An agent walks through the layers and says of each how much it keeps; its reward is what the model is worth then.

    The agent sees of a layer its kind, channels, kernel, stride, weights and cost, what is gone and can still go, and
    what it said before. A share that would make the budget unreachable is moved to the nearest that does not.

    He, Lin, Liu, Wang, Li, Han, "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018,
    algorithm 1 (the share that the budget leaves). The agent is Stable-Baselines3's deep deterministic policy gradient
    (Lillicrap et al., "Continuous Control with Deep Reinforcement Learning", ICLR 2016). Filters go, not inputs of
    layers, and weights are not fitted anew by least squares.

    Args:
        model: what to prune, any model. The constructor only reads it. Scripts of a later version give
            ``(total_episode, model, config_list, dummy_input, evaluator, ...)``; they are told apart by the number.
            Either may give everything by position, in the older toolkit's order.
        config_list: a list of dicts that say which layers; ``sparsity`` may be left out.
        evaluator: ``evaluator(val_loader, model) -> float``; without ``val_loader``, ``evaluator(model)``.
        val_loader: handed to the evaluator.
        flops_ratio: the share of the multiply-accumulates, or of another objective's cost, that may stay.
        lbound: the least share of a layer that stays.
        rbound: the largest share of a layer that stays.
        reward: ``"acc_reward"``, ``"acc_flops_reward"``, or a function ``(score, cost) -> float``.
        channel_round: layers keep a multiple of so many filters, where they have as many.
        hidden1: width of the agent's first layer.
        hidden2: width of its second.
        lr_c: its learning rate.
        warmup: episodes in which it acts at random.
        discount: of later rewards.
        bsize: how many remembered steps it learns from at a time.
        rmsize: how many episodes it remembers.
        tau: how fast its target networks follow.
        init_delta: the standard deviation of the noise that it explores with.
        delta_decay: by what that is multiplied after each episode.
        train_episode: how many episodes.
        output_dir: where the journal, ``search_result.json``, ``best_model.pth`` and ``best_mask.pth`` are written;
            made if it is missing.
        seed: of every random number.
        base_algo: what goes within a layer; ``pruning_algorithm`` is the same.
        objective: ``"macs"`` if not given.
        fine_tuner: as :class:`SearchPruner`.
        optimize_mode: likewise.
        dummy_input: likewise.
        executor: likewise.
        resume: likewise.
        ignored: further arguments of older scripts that have no meaning here; each is named in the log.

    Raises:
        ConfigError: as :class:`SearchPruner`.
        MissingExtraError: Stable-Baselines3 is not installed.
        SearchError: from ``compress()``, if the objective cannot be met or a trial fails.
    """

    @_by_name
    def __init__(  # noqa: PLR0913 - the arguments of the older toolkit, and every search's
        self,
        model: nn.Module,
        config_list: Any,
        evaluator: Callable[..., Any],
        val_loader: Any = None,
        *,
        flops_ratio: float | None = None,
        lbound: float = 0.2,
        rbound: float = 1.0,
        reward: str | Reward = "acc_reward",
        channel_round: int = 8,
        hidden1: int = 300,
        hidden2: int = 300,
        lr_c: float = 1e-3,
        warmup: int = 100,
        discount: float = 1.0,
        bsize: int = 64,
        rmsize: int = 100,
        tau: float = 0.01,
        init_delta: float = 0.5,
        delta_decay: float = 0.99,
        output_dir: str | os.PathLike[str] = "./logs",
        train_episode: int = 800,
        seed: int | None = None,
        base_algo: Criterion = "l1",
        objective: Objective | Metric | None = None,
        fine_tuner: Callable[[nn.Module], Any] | None = None,
        optimize_mode: str = "maximize",
        dummy_input: Any = None,
        executor: Executors = "serial",
        resume: bool = True,
        **ignored: Any,
    ) -> None:
        train_episode = ignored.pop("total_episode", train_episode)
        base_algo = ignored.pop("pruning_algorithm", base_algo)
        target = ignored.pop("target", None)
        objective = "macs" if target == "flops" else target or objective or "macs"
        fine_tuner = ignored.pop("finetuner", None) or fine_tuner
        output_dir = ignored.pop("log_dir", output_dir)
        unknown = sorted(set(ignored) - _WITHOUT_EFFECT - {"ddpg_params"})
        if unknown:
            raise ConfigError(f"AMCPruner: there is no argument {unknown[0]!r}")
        given = {**_named(ignored.pop("ddpg_params", {}))}
        if ignored:
            log.warning("AMCPruner: %s have no meaning here and are ignored", ", ".join(sorted(ignored)))
        with suppress(OSError):  # the base says what is wrong
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        if flops_ratio is not None and not 0 < flops_ratio < 1:
            raise ConfigError(f"AMCPruner: flops_ratio is {flops_ratio!r}; it lies between 0 and 1")
        self.flops_ratio = flops_ratio
        super().__init__(
            model, config_list, _with_loader(evaluator, val_loader),
            optimize_mode=optimize_mode, base_algo=base_algo, experiment_data_dir=output_dir, fine_tuner=fine_tuner,
            objective=objective, dummy_input=dummy_input, executor=executor, seed=seed or 0, resume=resume,
            max_sparsity=min(1 - lbound, 0.999) if 0 < lbound < 1 else 0.999,
        )  # fmt: skip
        if not 0 < lbound <= rbound <= 1:
            raise ConfigError(f"AMCPruner: lbound is {lbound!r} and rbound {rbound!r}; 0 < lbound <= rbound <= 1")
        if not callable(reward) and reward not in REWARDS:
            raise ConfigError(f"AMCPruner: reward is {reward!r}; it is one of {', '.join(map(repr, REWARDS))}, or a "
                              "function (score, cost) -> float")  # fmt: skip
        self.reward: Reward = REWARDS[reward] if isinstance(reward, str) else reward
        self.lbound, self.rbound = lbound, rbound
        self.channel_round = checked_batches("AMCPruner", "channel_round", channel_round)
        self.train_episode = checked_batches("AMCPruner", "train_episode", train_episode)
        self.ddpg = {
            "hidden": (hidden1, hidden2), "learning_rate": lr_c, "warmup": warmup, "discount": discount,
            "batch_size": bsize, "memory": rmsize, "tau": tau, "noise": init_delta, "noise_decay": delta_decay, **given,
        }  # fmt: skip

    def finish(self, run: SearchRun, best: Trial) -> None:
        """Write down what was found, and the masked model and its masks."""
        super().finish(run, best)
        super().export_model(self.folder / "best_model.pth", self.folder / "best_mask.pth")

    def _share_to_go(self, asked: float | None) -> float:
        """What ``flops_ratio`` leaves, or what the entries say, or half."""
        return (asked or 0.5) if self.flops_ratio is None else 1.0 - self.flops_ratio

    def settings(self) -> dict[str, Any]:
        """How the agent learns, and what it may say."""
        bounds = [self.lbound, self.rbound, self.channel_round, self.sparsity]
        return {"ddpg": self.ddpg, "bounds": bounds, "reward": of_code(self.reward)}

    def search(self, run: SearchRun) -> Trial:
        """Let the agent act and learn, and return the best trial."""
        try:
            from torchpare.search.amc_agent import Agent, learn
        except ImportError as error:
            raise MissingExtraError(
                "Stable-Baselines3 is not installed; it comes with: pip install 'torchpare[amc]'"
            ) from error
        run.check_reachable()
        walk = Walk(run, Bounds(self.lbound, self.rbound, self.channel_round), self.reward, self.train_episode)
        layers = {name: target.module for name, target in self.targets.items()}
        with seeded(self.seed):  # the library seeds the process
            learn(
                Agent(**self.ddpg), self.train_episode, self.seed, features(run, layers), walk.progress, walk.allowed,
                walk.reward,
            )  # fmt: skip
        assert walk.best is not None
        run.commit(walk.best)
        return walk.best


class _WithLoader:
    """An evaluator that is handed its data first."""

    def __init__(self, evaluator: Callable[..., Any], loader: Any) -> None:
        self.__wrapped__, self.loader = evaluator, loader

    def __call__(self, model: nn.Module) -> Any:
        return self.__wrapped__(self.loader, model)


def _with_loader(evaluator: Any, loader: Any) -> Any:
    return evaluator if loader is None or not callable(evaluator) else _WithLoader(evaluator, loader)


_DDPG = {
    "hidden1": None, "hidden2": None, "lr_c": "learning_rate", "lr_a": None, "warmup": "warmup", "discount": "discount",
    "bsize": "batch_size", "rmsize": "memory", "window_length": None, "tau": "tau", "init_delta": "noise",
    "delta_decay": "noise_decay", "max_episode_length": None, "epsilon": None,
}  # fmt: skip


def _named(ddpg_params: Mapping[str, Any]) -> dict[str, Any]:
    """A later version's dict of the agent's numbers, by our names."""
    for key in ddpg_params:
        if key not in _DDPG:
            raise ConfigError(f"AMCPruner: ddpg_params[{key!r}]: there is no such number; those are {', '.join(_DDPG)}")
    without = sorted(_WITHOUT_EFFECT & set(ddpg_params))
    if without:
        log.warning("AMCPruner: of ddpg_params %s have no meaning here and are ignored", ", ".join(without))
    found = {name: ddpg_params[key] for key, name in _DDPG.items() if name is not None and key in ddpg_params}
    if "hidden1" in ddpg_params or "hidden2" in ddpg_params:
        found["hidden"] = (ddpg_params.get("hidden1", 300), ddpg_params.get("hidden2", 300))
    return found
