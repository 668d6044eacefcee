"""A new parameter in the place of an old one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["renewed"]


def renewed(old: Tensor, new: Tensor, cut: Callable[[Tensor], Tensor] | None = None) -> nn.Parameter:
    """``new`` as a parameter that trains as ``old`` did, with whatever the user hung on that.

    Args:
        old: the parameter whose place it takes.
        new: its values.
        cut: what makes the gradient of ``new`` out of that of ``old``; without it there is none.
    """
    parameter = nn.Parameter(new, requires_grad=old.requires_grad)
    for name, value in vars(old).items():
        setattr(parameter, name, value)
    if old.grad is not None and cut is not None:
        parameter.grad = cut(old.grad)
    return parameter
