"""Room for biases: runtimes keep them as int32 in steps of input times weight, and steps may be too small for that.

A channel that a batch norm has all but switched off has weights near zero, steps to match, and a bias of ordinary size.
Divided by such a step it is beyond int32 and would wrap around or saturate. The step is made as large as the bias needs
it; the weights, which add next to nothing to such a bias, are rounded to it.

A channel that is pruned, or that a norm has switched off altogether, has no weights and so any step, of which 1 is one:
the bias would be rounded to whole steps of the input. It gets a step in which the bias is exact enough for any grid.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchpare.runtimes.integers import Stored

__all__ = ["with_room"]

_LARGEST = 2**30
"""Of a bias in int32: as much again is left for the sum of products."""


_PRECISE = 2**20
"""Steps in the largest bias of a layer: many more than a grid of eight bits has."""


def with_room(held: Stored, bias: Tensor, input_scale: float) -> Stored:
    """A stored weight whose steps times the input's hold a bias in int32, precisely; itself where they do.

    Args:
        held: the weight; its zero points stay.
        bias: of shape ``(O,)``.
        input_scale: the step of the layer's input.
    """
    needed = (bias.abs().double() / (input_scale * _LARGEST)).float()
    scale = held.scale.expand(len(bias))
    precise = (bias.abs().max().double() / (input_scale * _PRECISE)).float()
    empty = ~held.levels.movedim(held.axis, 0).flatten(1).any(1) & (precise > 0)
    scale = torch.where(empty, torch.minimum(scale, precise), scale)
    short = scale < needed
    if not bool((short | empty).any()):
        return held
    along = [-1 if at == held.axis else 1 for at in range(held.codes.dim())]
    wider = torch.where(short, needed, scale)
    zero_point = held.zero_point.expand(len(bias))
    levels = (held.levels * (scale.double() / wider.double()).reshape(along)).round().long()
    codes = (levels + zero_point.reshape(along)).to(torch.int8)
    return replace(held, codes=codes, scale=wider.contiguous(), zero_point=zero_point.contiguous())
