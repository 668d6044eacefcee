"""How a learning rate goes over all steps of a training: a factor for each step."""

from __future__ import annotations

import math

__all__ = ["factor"]


def factor(schedule: str, step: int, steps: int, warmup: float = 0.0) -> float:
    """What the learning rate is multiplied by.

    Args:
        schedule: ``"constant"``, ``"linear"``, ``"cosine"`` (Loshchilov, Hutter, "SGDR", ICLR 2017, equation 5, down to
            nothing) or ``"one_cycle"`` (Smith, "Super-Convergence", 2018: a rise over three tenths of the steps from a
            25th, and a fall to nothing, along half cosines).
        step: from 0.
        steps: of the whole training.
        warmup: the share of steps over which it rises along a line; it reaches 1 with the last of them.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    left = max(steps - rising, 1)
    share = min((step - rising) / left, 1.0)
    if schedule == "linear":
        return 1.0 - share
    if schedule == "cosine":
        return _half_cosine(1.0, 0.0, share)
    if schedule == "one_cycle":
        top = 0.3
        return (
            _half_cosine(0.04, 1.0, share / top) if share < top else _half_cosine(1.0, 0.0, (share - top) / (1 - top))
        )
    return 1.0


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
