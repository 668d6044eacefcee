"""Time as a person can trust it: contenders take turns, and what is told is the median with its quartiles.

Two programs timed one after the other are compared across two states of the machine: other work, another clock speed,
a warmer chip. Here they run in rounds, each contender once per round, and every second round in reverse order, so that
what disturbs one disturbs all.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Measurement", "describe_machine", "measure"]


@dataclass(frozen=True)
class Measurement:
    """How long one thing takes, in seconds, and under what circumstances that was found."""

    median: float
    lower_quartile: float
    """A quarter of the runs were faster than this."""
    upper_quartile: float
    """A quarter of the runs were slower than this."""
    runs: int
    threads: int
    """How many threads the runtime was allowed within one operator."""
    runtime: str
    """What executed it, with its version, such as ``"PyTorch 2.13.0"``."""
    environment: str
    """The machine, in words."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return asdict(self)


def measure(
    contenders: Mapping[str, Callable[[], object]],
    *,
    runs: int = 50,
    warmup: int = 5,
    settle: int = 0,
    runtime: str | None = None,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measurement]:
    """Time functions against each other, taking turns.

    Args:
        contenders: functions without arguments, by name. One that hands work to another device must wait for it itself.
        runs: how often each one is timed, at least 2.
        warmup: how many rounds go by untimed first: caches fill, kernels are chosen, threads start.
        settle: how many untimed calls come right before each timed one: it finds its own weights in the processor's
            caches then, as it does where nothing else takes turns with it.
        runtime: what executes them; this PyTorch if not given.
        threads: how many threads the runtime uses; PyTorch's setting if not given. Told, not set.
        clock: seconds from some fixed moment.

    Returns:
        one measurement per contender, under the same names.

    Raises:
        ValueError: there is nothing to time, or too few runs for quartiles.
    """
    if not contenders:
        raise ValueError(
            "measure() was given no contenders; give functions by name, such as {'dense': ..., 'small': ...}"
        )
    if runs < 2 or warmup < 0:
        raise ValueError(
            f"measure() was given runs={runs}, warmup={warmup}; quartiles need at least 2 runs, and warmup is 0 or more"
        )
    forth = list(contenders.items())
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-warmup, runs):
        for name, contender in forth if turn % 2 == 0 else reversed(forth):
            for _ in range(settle):
                contender()
            start = clock()
            contender()
            elapsed = clock() - start
            if turn >= 0:
                seconds[name].append(elapsed)
    circumstances = (
        torch.get_num_threads() if threads is None else threads,
        f"PyTorch {torch.__version__}" if runtime is None else runtime,
        describe_machine(),
    )
    return {name: _summary(samples, *circumstances) for name, samples in seconds.items()}


def describe_machine() -> str:
    """The processor, how many cores this process may use, and the operating system: ``"AMD EPYC, 2 cores, Linux"``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_processor()}, {cores} core{'s' if cores > 1 else ''}, {platform.system()}"


def _summary(samples: list[float], threads: int, runtime: str, environment: str) -> Measurement:
    lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return Measurement(median, lower, upper, len(samples), threads, runtime, environment)


def _processor() -> str:
    """Its trade name where the system tells it, otherwise its family."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, names), "") or platform.processor() or platform.machine() or "unknown processor"
