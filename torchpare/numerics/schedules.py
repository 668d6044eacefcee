"""How much is pruned when: pure functions from a moment to a sparsity.

Each takes how far training is, ``progress`` in [0, 1], and goes from ``initial`` to ``final``, both in [0, 1]; what
lies outside is the nearer end. `at_epoch` says how far training is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["SCHEDULES", "Schedule", "at_epoch", "compound", "cubic", "linear", "one_shot", "with_warm_up"]

Schedule: TypeAlias = Callable[[float, float, float], float]
"""(initial, final, progress) -> sparsity."""


def cubic(initial: float, final: float, progress: float) -> float:
    """Fast at first, while there is much to spare, and slow at the end.

    Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017, equation 1:
    ``s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n * dt)) ** 3``.
    """
    return final + (initial - final) * (1 - _inside(progress)) ** 3


def linear(initial: float, final: float, progress: float) -> float:
    """As much at every step: a line between the two. No paper's."""
    return initial + (final - initial) * _inside(progress)


def compound(initial: float, final: float, progress: float) -> float:
    """The same share of what is left at every step: ``1 - s`` falls geometrically.

    Frankle, Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, section 1, no numbered equation: each of ``n`` rounds
    prunes the same share of what survived the one before. Of a whole sparsity ``p`` that is ``1 - (1 - p) ** (1 / n)``.
    """
    at = _inside(progress)
    return 1 - (1 - initial) ** (1 - at) * (1 - final) ** at


def one_shot(initial: float, final: float, progress: float) -> float:  # noqa: ARG001 - every schedule takes the same
    """Everything at once. No paper's."""
    return final


SCHEDULES: dict[str, Schedule] = {"cubic": cubic, "linear": linear, "compound": compound, "one_shot": one_shot}
"""By the name that pruners take."""


def at_epoch(epoch: int, *, start: int, end: int, every: int) -> float:
    """How far a schedule is that moves every few epochs, between its first epoch and the last at which it moves.

    ``(t - t_0) / (n * dt)`` of Zhu, Gupta, 2017, equation 1, for ``t`` in ``t_0, t_0 + dt, ..., t_0 + n * dt``.

    Args:
        epoch: the epoch that begins, counted from 0.
        start: the first epoch with masks.
        end: the first epoch after the schedule.
        every: epochs between two moves.

    Returns:
        0 at ``start`` and before, 1 from the last move on: ``(epoch - start) / ((end - start - 1) // every * every)``,
        where ``epoch`` counts as the last one at which the schedule moved.
    """
    moves = (end - start - 1) // every
    if epoch < start:
        return 0.0
    return 1.0 if moves <= 0 else min(1.0, (epoch - start) // every / moves)


def with_warm_up(step: int, *, warm_up: int, cool_down: int) -> float:
    """How far a schedule is that waits until step ``warm_up`` and ends at step ``cool_down``.

    ``(t - t_0) / (n * dt)`` of Zhu, Gupta, 2017, equation 1, with ``dt`` a step; Sanh, Wolf, Rush, "Movement Pruning:
    Adaptive Sparsity by Fine-Tuning", NeurIPS 2020, section 5, rest at the two ends' sparsities in their first and last
    steps.
    """
    return _inside((step - warm_up) / max(cool_down - warm_up, 1))


def _inside(progress: float) -> float:
    return min(1.0, max(0.0, progress))
