"""How long each module takes by itself: a clock that runs on its hooks.

Each module's time is its own: while a module that it calls is at work, its clock stands still. So the times add up to
that of the whole pass. Hooks cost time themselves, which is why the same pass is timed without them too, taking turns.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from torchpare.insight.rest import device_of
from torchpare.report import Measurement, measure

__all__ = ["Spent", "time_modules"]


@dataclass(frozen=True)
class Spent:
    """Seconds that a module took in one pass, all its calls together, without the modules it called."""

    median: float
    lower_quartile: float
    upper_quartile: float
    calls: int
    """In one pass."""


def time_modules(
    model: nn.Module, call: Callable[[], object], *, runs: int, warmup: int
) -> tuple[dict[str, Spent], Measurement, Measurement]:
    """Time a model and each of its modules.

    Args:
        model: which `call` runs. Put it to rest first.
        call: one pass.
        runs: how many passes with hooks count, and as many without.
        warmup: how many passes of each kind go by first.

    Returns:
        by module name, what it spent; and the whole pass, without hooks and with them.
    """
    clock = _Clock(model)

    def watched() -> None:
        with clock.running():
            call()
            clock.wait()

    def plain() -> None:
        call()
        clock.wait()

    taken = measure({"plain": plain, "watched": watched}, runs=runs, warmup=warmup)
    return clock.spent(warmup), taken["plain"], taken["watched"]


class _Clock:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._accelerated = device_of(model).type not in ("cpu", "meta")
        self._passes: list[dict[str, float]] = []
        self._calls: dict[str, int] = {}
        self._stack: list[str] = []
        self._last = 0.0

    def wait(self) -> None:
        """Until the accelerator has done what it was given."""
        if self._accelerated:
            torch.accelerator.synchronize()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hooks are on every module for one pass."""
        handles = []
        self._passes.append(defaultdict(float))
        self._calls = defaultdict(int)
        self._stack = []
        try:
            for name, module in self.model.named_modules():
                handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
                handles.append(module.register_forward_hook(self._leave))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def spent(self, warmup: int) -> dict[str, Spent]:
        """By module, over the passes after the first ones."""
        passes = self._passes[warmup:]
        found = {}
        for name, calls in self._calls.items():
            times = [seconds.get(name, 0.0) for seconds in passes]
            lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
            found[name] = Spent(median, lower, upper, calls)
        return found

    def _enter(self, name: str, *_: Any) -> None:
        self._settle()
        self._stack.append(name)
        self._calls[name] += 1
        self._last = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        self._settle()
        self._stack.pop()
        self._last = time.perf_counter()

    def _settle(self) -> None:
        """What has gone by since the last moment belongs to the module that is at work."""
        self.wait()
        if self._stack:
            self._passes[-1][self._stack[-1]] += time.perf_counter() - self._last
