"""Weights of linear layers with a scale for each group of inputs, as the integers that files hold: four bits, or eight.

As in `torchpare.runtimes.integers` a weight is judged by its values alone: what lies on at most 16 whole multiples of
each group's scale is held in four bits, what lies on at most 256 in eight, exactly.

Groups of weights that follow each other in a row are those of Frantar et al., "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers", ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchpare.runtimes.integers import ROUNDING, Stored

__all__ = ["GROUP_SIZES", "Grouped", "group", "grouped_from"]

GROUP_SIZES = (16, 32, 64, 128, 256)
"""How many weights may share a scale in kernels for few bits, where it is not the whole row."""


@dataclass(frozen=True)
class Grouped:
    """A weight in groups along its inputs: ``(codes - zero_point) * scale``, each group with its own."""

    codes: Tensor
    """int8 of shape ``(O, I)``; from -8 to 7 if ``bits`` is 4."""

    scale: Tensor
    """float32 of shape ``(O, I / size)``."""

    zero_point: Tensor
    """int64 of the shape of ``scale``; all zero where the levels allow that."""

    bits: int
    """4 or 8: how wide an integer is in a file. Fewer are held in 4, and 5 to 7 in 8."""

    @property
    def size(self) -> int:
        """How many weights that follow each other in a row share a scale."""
        return self.codes.shape[1] // self.scale.shape[1]

    @property
    def value(self) -> Tensor:
        """The weight, float32 of shape ``(O, I)``."""
        levels = self.codes.long().unflatten(1, (-1, self.size)) - self.zero_point.unsqueeze(2)
        return (levels * self.scale.unsqueeze(2)).flatten(1)

    def __str__(self) -> str:
        whole = self.scale.shape[1] == 1
        return f"{self.bits}-bit integers {'by row' if whole else f'in groups of {self.size}'}"


def group(value: Tensor, scale: Tensor) -> Grouped | str:
    """A weight in groups, or why that cannot be.

    Args:
        value: as the model uses it, ``(O, I)``.
        scale: above zero, ``(O, groups)`` with as many groups as divide ``I``.
    """
    size = value.shape[1] // scale.shape[1]
    if scale.shape[1] > 1 and size not in GROUP_SIZES:
        return f"groups of {size} weights: kernels take {', '.join(map(str, GROUP_SIZES))}"
    exact = value.double().unflatten(1, (-1, size)) / scale.double().unsqueeze(2)
    levels = exact.round()
    if not bool(((exact - levels).abs() <= ROUNDING * levels.abs().clamp(min=1)).all()):
        return "its values are no whole multiples of its groups' scales"
    return _held(levels.long(), scale)


def grouped_from(stored: Stored) -> Grouped | str:
    """What `store` put in eight bits, each row one group, in four where that is enough; why not, where it cannot be."""
    if stored.codes.dim() != 2 or stored.axis != 0:
        return "no weight of a linear layer"
    levels = stored.levels
    scale = stored.scale.reshape(-1).expand(len(levels)).clone()
    for _ in range(7):  # `store` doubles levels as long as they fit
        even = (levels % 2 == 0).all(1) & (levels != 0).any(1)
        levels = torch.where(even.unsqueeze(1), levels // 2, levels)
        scale = torch.where(even, scale * 2, scale)
    return _held(levels.unsqueeze(1), scale.unsqueeze(1))


def _held(levels: Tensor, scale: Tensor) -> Grouped | str:
    """Levels ``(O, groups, size)`` in as few bits as hold them all."""
    low, high = levels.amin(2).clamp(max=0), levels.amax(2).clamp(min=0)
    span = int((high - low).max())
    if span > 255:
        return f"its values span {span + 1} levels, and eight bits hold 256"
    bits = 4 if span < 16 else 8
    least = -(2 ** (bits - 1))
    fits = bool((low >= least).all() and (high < -least).all())
    zero_point = torch.zeros_like(low) if fits else (least - low).clamp(max=-least - 1)
    codes = (levels + zero_point.unsqueeze(2)).flatten(1).to(torch.int8)
    return Grouped(codes.contiguous(), scale.float().contiguous(), zero_point.contiguous(), bits)
