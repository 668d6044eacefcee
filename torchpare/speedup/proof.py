"""The proof: what two models return is compared, relative to its range; the small model's against the masked one's.

Both run in float64 (see `torchpare.speedup.runs`). There two correct programs agree to about 1e-15 of the output's
range, so 1e-10 separates rounding from mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from torchpare.graph import Removal
from torchpare.speedup.shrink_plan import Cut

__all__ = ["Outputs", "first_difference", "largest_difference"]


@dataclass(frozen=True)
class Outputs:
    """Everything a model returned, and the floating type in which it was computed."""

    tensors: list[Tensor]
    dtype: torch.dtype

    @property
    def finite(self) -> bool:
        """Whether there is a finite number among them."""
        return any(bool(torch.isfinite(tensor).any()) for tensor in self.tensors)

    @property
    def all_finite(self) -> bool:
        """Whether every number among them is finite."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.tensors)


def largest_difference(reference: Outputs, other: Outputs) -> float:
    """The largest difference of two outputs, relative to the largest absolute value of the reference.

    Infinity where shapes differ, or where one is not finite and the other is not the same.
    """
    if len(reference.tensors) != len(other.tensors):
        return float("inf")
    largest, scale = 0.0, 0.0
    for left, right in zip(reference.tensors, other.tensors, strict=True):
        if left.shape != right.shape:
            return float("inf")
        if not left.numel():
            continue
        if left.is_complex() != right.is_complex():
            return float("inf")
        a, b = _real(left), _real(right)
        finite = torch.isfinite(a)
        if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(
            a[~finite].nan_to_num(), b[~finite].nan_to_num()
        ):
            return float("inf")
        if finite.any():
            largest = max(largest, float((a - b)[finite].abs().max()))
            scale = max(scale, float(a[finite].abs().max()))
    return largest / scale if scale > 0 else largest


def _real(tensor: Tensor) -> Tensor:
    """In float64; a complex number as its two parts, for the conversion alone would drop the imaginary one."""
    return torch.view_as_real(tensor.resolve_conj()).double() if tensor.is_complex() else tensor.double()


@dataclass(frozen=True)
class Difference:
    """The first module whose output differs, and by how much of that output's range."""

    module: str
    kind: str
    size: float

    def __str__(self) -> str:
        name = f"module '{self.module}'" if self.module else "the model's own forward"
        return f"{name} ({self.kind}), by {self.size:.3g} of its output's range"


def first_difference(
    removal: Removal, reference: Mapping[int, Tensor], outputs: list[tuple[str, str, Tensor]], tolerance: float
) -> Difference | None:
    """The first module of the small model whose output is not what the masked model's kept channels are.

    Args:
        removal: what was removed.
        reference: outputs of the masked model's modules by their place in the recorded program.
        outputs: (path, kind, output) of the small model's modules, in order.
        tolerance: relative to each output's range.
    """
    recorded = removal.space.program.module_outputs
    if [path for path, _ in recorded] != [path for path, _, _ in outputs]:
        return None
    for place, ((_, uid), (path, kind, small)) in enumerate(zip(recorded, outputs, strict=True)):
        dense = reference[place]
        value = removal.space.program.values[uid]
        if tuple(dense.shape) != value.shape:
            continue
        cut = Cut(tuple(removal.kept_axes(uid)), value.shape, removal.shape(uid))
        size = largest_difference(Outputs([cut.apply(dense)], dense.dtype), Outputs([small], small.dtype))
        if size > tolerance:
            return Difference(path, kind, size)
    return None
