"""Up or down: rounding that is learnt, each weight between its two neighbours on the grid.

Nagel, Amjad, van Baalen, Louizos, Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML
2020, section 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchpare.numerics.affine import Grid, codes_of

__all__ = ["annealed", "lower_codes", "rounding_penalty", "rounding_start", "share_up"]

_ZETA, _GAMMA = 1.1, -0.1
_UNDECIDED = 1e-3


def share_up(v: Tensor) -> Tensor:
    """How far towards the upper neighbour, in [0, 1]: the sigmoid of ``v``, stretched to [-0.1, 1.1] and clipped.

    Because of the stretch it reaches 0 and 1 at finite ``v``, with a gradient everywhere between.
    """
    return (torch.sigmoid(v) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


def rounding_start(fraction: Tensor) -> Tensor:
    """The ``v`` of which ``share_up`` is ``fraction``, in [0, 1]: at first the weight is what it was."""
    inside = (fraction - _GAMMA) / (_ZETA - _GAMMA)
    return torch.log(inside / (1 - inside))


def rounding_penalty(share: Tensor, beta: float) -> Tensor:
    """``sum(1 - |2 share - 1|**beta)``: zero where every weight has decided, as many as there are where none has.

    Args:
        share: in [0, 1].
        beta: above 1; the smaller, the more it pulls on what is nearly decided.
    """
    return (1 - (2 * share - 1).abs().pow(beta)).sum()


def annealed(done: float, *, start: float = 20.0, end: float = 2.0, warmup: float = 0.2) -> float:
    """The ``beta`` of a moment: half a cosine from ``start`` to ``end``, after a warm-up without penalty.

    Args:
        done: the share of all iterations that lies behind, in [0, 1].
        start: at first.
        end: at last.
        warmup: for this share of the iterations it stays at ``start``.
    """
    moved = min(max((done - warmup) / (1 - warmup), 0.0), 1.0)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * moved))


def lower_codes(weight: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """The integer below each weight, what is left above it in steps, and where there is something to decide.

    A weight that lies on the grid, or beyond its ends, has one neighbour alone: there the integer is that, and what is
    left is zero.
    """
    near = codes_of(weight, scale, zero_point, grid).clamp(grid.qmin, grid.qmax)
    exact = weight.detach().to(near.dtype) / scale + zero_point
    below = exact.floor()
    fraction = exact - below
    open_ = (fraction > _UNDECIDED) & (fraction < 1 - _UNDECIDED) & (below >= grid.qmin) & (below < grid.qmax)
    return torch.where(open_, below, near), torch.where(open_, fraction, 0.0), open_
