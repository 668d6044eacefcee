"""Two tensors made comparable: the same channels of both, and an error with the layer's name where that fails."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchpare.errors import ConfigError

__all__ = ["Pair", "matched", "not_finite", "taken", "widened"]

Axes = Sequence[Tensor | None]
Pair = tuple[str, Tensor, Tensor]
"""Where they are from, the student's tensor and the teacher's."""


def matched(where: str, student: Tensor, teacher: Tensor, own: Axes | None, its: Axes | None) -> tuple[Tensor, Tensor]:
    """The channels that both tensors have, in the same order.

    Args:
        where: the layer, for messages.
        student: what the student's layer returned.
        teacher: what the teacher's returned.
        own: for each axis what to take of the student's, and then of the teacher's too.
        its: for each axis what to take of the teacher's first.

    Raises:
        ConfigError: the shapes still differ.
    """
    before = tuple(teacher.shape)
    if its is not None and len(its) == teacher.dim():
        teacher = taken(teacher, its)
    if student.shape != teacher.shape:
        kept = f", of which {tuple(teacher.shape)} is kept by the student's record" if its is not None else (
            "; the student carries no record of what was kept: shrink it with torchpare, or load it with torchpare.load"
        )  # fmt: skip
        raise ConfigError(f"{where}: the student's layer returns {tuple(student.shape)}, the teacher's {before}{kept}")
    if own is not None and len(own) == student.dim():
        student, teacher = taken(student, own), taken(teacher, own)
    return student, teacher


def taken(tensor: Tensor, axes: Axes) -> Tensor:
    """The kept entries along every axis."""
    for axis, kept in enumerate(axes):
        if kept is not None:
            tensor = tensor.index_select(axis, kept.to(tensor.device))
    return tensor


def widened(tensor: Tensor) -> Tensor:
    """In float32 at least: 16 bits are too few for differences of what is nearly alike."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def not_finite(pairs: Sequence[Pair]) -> str:
    """What is wrong with a loss that is not finite, in a sentence: the first tensor that is not finite itself."""
    for where, student, teacher in pairs:
        for whose, tensor in (("teacher", teacher), ("student", student)):
            bad = int((~tensor.detach().isfinite()).sum())
            if bad:
                return f"Of what the {whose} returns, {bad} of {tensor.numel()} entries are NaN or infinite: {where}"
    return "All that was compared is finite, so a term is infinite in itself (a class that only the student rules out?)"
