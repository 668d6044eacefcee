"""A parameter under its mask: the product, made with as little traffic to memory as can be.

Weights are large and read once a step, so a product with them costs what moving them costs. On a CPU torch turns a bool
mask into numbers slowly, one by one; read as bytes, the mask becomes numbers at the speed of a copy, and the product is
written over these. The pass back keeps the mask, a byte a weight, not the numbers, which take four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["masked"]


def masked(value: Tensor, mask: Tensor) -> Tensor:
    """``value * mask``, in the type of ``value``; so is its gradient.

    Args:
        value: any shape.
        mask: bool, of the same rank, each size 1 or the value's; True stays.
    """
    if not _watched() and _elementwise(value, mask):
        return _Masked.apply(value, mask)  # type: ignore[no-any-return]
    # In the value's own type: a product of two types costs torch several times as much, both ways.
    return value * mask.to(value.dtype)


def _elementwise(value: Tensor, mask: Tensor) -> bool:
    """Whether both are plain tensors of one shape on a CPU. Masks of whole channels are small, and no cost to turn."""
    plain = type(value) in (Tensor, nn.Parameter) and type(mask) is Tensor and value.layout is torch.strided
    return plain and value.shape == mask.shape and value.device.type == mask.device.type == "cpu"


def _watched() -> bool:
    """Whether somebody writes the operators down or changes their meaning, and should see the plain product."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[reportPrivateImportUsage]
        or is_in_torch_dispatch_mode()
        or torch._C._are_functorch_transforms_active()  # noqa: SLF001 - what autograd.Function itself asks
    )


def _product(value: Tensor, mask: Tensor) -> Tensor:
    ones = mask.view(torch.uint8)
    alike = value.stride() == mask.stride()  # the product lies in memory as the value does
    return (ones.to(value.dtype) if alike else torch.empty_like(value).copy_(ones)).mul_(value)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.save_for_forward(mask)
        return _product(value, mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return masked(gradient, *ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        return masked(tangent, *ctx.saved_tensors)
