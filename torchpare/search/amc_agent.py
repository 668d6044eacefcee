"""The agent of AMC: deep deterministic policy gradients from Stable-Baselines3, in a world where a step is a layer.

Imported only where the search runs: both libraries are an optional extra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import DDPG
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise

__all__ = ["Agent", "learn"]


@dataclass(frozen=True)
class Agent:
    """How the agent learns; see :class:`torchpare.search.AMCPruner`."""

    hidden: tuple[int, int]
    learning_rate: float
    warmup: int
    discount: float
    batch_size: int
    memory: int
    tau: float
    noise: float
    noise_decay: float


class _Layers(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """An episode goes from the first layer to the last; the reward comes at the end.

    Args:
        features: ``(V, F)`` of the layers, each column in [0, 1].
        progress: ``(actions so far) -> two numbers in [0, 1]``: the share of the cost that is gone, and that could go.
        allowed: ``(actions so far, action) -> action`` within the budget.
        reward: of a whole episode's actions.
    """

    def __init__(
        self,
        features: NDArray[np.float64],
        progress: Callable[[list[float]], tuple[float, float]],
        allowed: Callable[[list[float], float], float],
        reward: Callable[[list[float]], float],
    ) -> None:
        self._features, self._progress, self._allowed, self._reward = features, progress, allowed, reward
        self._taken: list[float] = []
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (features.shape[1] + 3,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._taken = []
        return self._observed(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._taken.append(self._allowed(self._taken, float(action[0])))
        if len(self._taken) < len(self._features):
            return self._observed(), 0.0, False, False, {}
        return self._observed(last=True), self._reward(self._taken), True, False, {}

    def _observed(self, last: bool = False) -> NDArray[np.float32]:
        at = len(self._features) - 1 if last else len(self._taken)
        before = self._taken[-1] if self._taken else 1.0
        state = np.concatenate([self._features[at], self._progress(self._taken), [before]])
        return np.clip(state, 0.0, 1.0).astype(np.float32)


class _FadingNoise(ActionNoise):
    """Normal noise that fades from episode to episode."""

    def __init__(self, start: float, decay: float, warmup: int, seed: int) -> None:
        super().__init__()
        self._width, self._decay, self._warmup, self._episode = start, decay, warmup, 0
        self._random = np.random.default_rng(seed)

    def reset(self) -> None:
        self._episode += 1
        if self._episode > self._warmup:
            self._width *= self._decay

    def __call__(self) -> NDArray[np.float64]:
        return self._random.normal(0.0, self._width, size=1)


def learn(
    agent: Agent,
    episodes: int,
    seed: int,
    features: NDArray[np.float64],
    progress: Callable[[list[float]], tuple[float, float]],
    allowed: Callable[[list[float], float], float],
    reward: Callable[[list[float]], float],
) -> None:
    """Let an agent act and learn for some episodes, on the CPU. Equal seeds and rewards give equal actions."""
    world = _Layers(features, progress, allowed, reward)
    layers = len(features)
    model = DDPG(
        "MlpPolicy", world, learning_rate=agent.learning_rate, buffer_size=max(agent.memory, 2) * layers,
        learning_starts=agent.warmup * layers, batch_size=agent.batch_size, tau=agent.tau, gamma=agent.discount,
        train_freq=(1, "step"), gradient_steps=1,
        action_noise=_FadingNoise(agent.noise, agent.noise_decay, agent.warmup, seed),
        policy_kwargs={"net_arch": list(agent.hidden)}, seed=seed, device="cpu", verbose=0,
    )  # fmt: skip
    model.set_logger(Logger(None, []))  # by itself it makes a folder for logs in the system's temporary one
    model.learn(episodes * layers)
