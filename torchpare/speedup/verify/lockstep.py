"""The dense run beside the small one: each result is held against the small model's and replaced by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchpare.graph import PruningSpace
from torchpare.layers.tables import named_tables
from torchpare.speedup.proof import Outputs, largest_difference
from torchpare.speedup.verify.runs import operators_of
from torchpare.speedup.verify.sequence import canonical_name
from torchpare.speedup.verify.tally import Tally
from torchpare.speedup.verify.transfer import box_of, shape_of

__all__ = ["Diverged", "Lockstep", "Step", "named_tensors", "run_small"]

_DRAWS = frozenset(
    f"aten.{name}"
    for name in (
        *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "normal", "normal_"),
        *("uniform", "uniform_", "bernoulli", "bernoulli_", "random", "random_", "exponential_", "native_dropout"),
    )
)
"""Two draws of different sizes are different numbers; the dense run takes over those of the small one."""


class Diverged(Exception):  # noqa: N818 - not an error, the end of a comparison
    """The dense run did something else than the small one."""


@dataclass(frozen=True)
class Step:
    """One operator of the small run, and what it returned."""

    name: str
    module: str
    outputs: tuple[Tensor, ...]

    @property
    def what(self) -> str:
        """The operator and where it ran, in words."""
        return f"{self.name} in {_place(self.module)}"


def run_small(twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Step]:
    """Run the small model; every operator that computes something, in order."""
    steps: list[Step] = []

    def see(name: str, module: str, _inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        canonical = canonical_name(name)
        if canonical is not None:
            steps.append(Step(canonical, module, tuple(output.detach().clone() for output in outputs)))

    operators_of(twin, args, kwargs, see)
    return steps


class Lockstep:
    """Judges the dense run, operator by operator, and steers it.

    Args:
        space: the analysis of the dense model, recorded as it will be run.
        gone: by class id, whether it went.
        small: what the small model did.
        tolerance: relative difference above which two results are a mismatch.
    """

    def __init__(self, space: PruningSpace, gone: NDArray[np.bool_], small: list[Step], tolerance: float) -> None:
        self.space = space
        self.gone = gone
        self.small = small
        self.tolerance = tolerance
        self.tallies: dict[str, Tally] = {}
        self._recorded = [op for op in space.program.ops if canonical_name(op.name) is not None]
        self._position = 0

    @property
    def rest(self) -> str:
        """What the small model did beyond the end of the dense run."""
        left = self.small[self._position :]
        return f"{left[0].what} against nothing" if left else ""

    @torch.no_grad()
    def start_from(self, dense: nn.Module, small: Mapping[str, Tensor]) -> None:
        """Compare parameters and buffers, and let the dense model start from the small one's."""
        for kind in ("parameter", "buffer"):
            for name, tensor in named_tensors(dense, kind).items():
                if name not in self.space.values:
                    continue  # a table that nothing read
                if name in small:
                    self._meet(kind, f"'{name}'", tensor, self.space.values[name].uid, small[name])
                else:
                    self._note(kind, float("inf"), f"'{name}', which the small model does not have")

    def see(self, name: str, module: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        """One operator of the dense run."""
        canonical = canonical_name(name)
        if canonical is None:
            return
        op = self._recorded[self._position] if self._position < len(self._recorded) else None
        if op is None or (canonical_name(op.name), op.module, len(op.outputs)) != (canonical, module, len(outputs)):
            message = f"with other numbers the dense model takes another path, at {name} in {_place(module)}"
            raise Diverged(message)
        step = self.small[self._position] if self._position < len(self.small) else None
        self._position += 1
        if step is None or (step.name, step.module, len(step.outputs)) != (canonical, module, len(outputs)):
            message = f"{'nothing' if step is None else step.what} against {canonical} in {_place(module)}"
            raise Diverged(message)
        for output, uid, small in zip(outputs, op.outputs, step.outputs, strict=True):
            if name in _DRAWS and output.dim():
                self._take_over(output, uid, small, inputs)
            else:
                self._meet(canonical, op.where, output, uid, small, inputs)

    def _meet(
        self, kind: str, place: str, dense: Tensor, uid: int, small: Tensor, inputs: tuple[Tensor, ...] = ()
    ) -> None:
        """Compare what stays of a tensor, then replace it."""
        difference = float("inf")
        box = self._box(dense, uid)
        if box is None:
            difference = _relative(dense, small, inputs)
        elif self._fits(small, uid, box):
            difference = _relative(dense[torch.from_numpy(box)].reshape(small.shape), small, inputs)
        self._note(kind, difference, place)
        self._take_over(dense, uid, small, inputs)

    def _note(self, kind: str, difference: float, place: str) -> None:
        tally = self.tallies.setdefault(kind, Tally())
        tally.total += 1
        tally.worst = max(tally.worst, difference)
        if not difference <= self.tolerance:
            tally.mismatches += 1
            tally.first = tally.first or place

    def _take_over(self, dense: Tensor, uid: int, small: Tensor, inputs: tuple[Tensor, ...]) -> None:
        """Replace the numbers of a dense tensor, unless it is a view of one whose numbers were replaced before."""
        if any(dense is not tensor and _same_memory(dense, tensor) for tensor in inputs):
            return
        box = self._box(dense, uid)
        if box is None and dense.shape == small.shape:
            dense.copy_(small)
        elif box is not None and self._fits(small, uid, box):
            dense.copy_(_scattered(small, box))

    def _box(self, dense: Tensor, uid: int) -> NDArray[np.bool_] | None:
        """Which elements of a dense tensor stay; None where all do."""
        box = box_of(self.space, self.gone, uid)
        return None if box.all() else np.broadcast_to(box, tuple(dense.shape)).copy()

    def _fits(self, small: Tensor, uid: int, box: NDArray[np.bool_]) -> bool:
        return tuple(small.shape) == shape_of(self.space, self.gone, uid) and small.numel() == box.sum()


def named_tensors(model: nn.Module, kind: Literal["parameter", "buffer"]) -> dict[str, Tensor]:
    """Parameters or buffers by qualified name, every alias of a tied one included; tables are buffers."""
    if kind == "parameter":
        return dict(model.named_parameters(remove_duplicate=False))
    return dict(model.named_buffers(remove_duplicate=False)) | named_tables(model)


def _scattered(small: Tensor, box: NDArray[np.bool_]) -> Tensor:
    result = torch.zeros(box.shape, dtype=small.dtype)
    result[torch.from_numpy(box)] = small.flatten()
    return result


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _relative(dense: Tensor, small: Tensor, inputs: tuple[Tensor, ...]) -> float:
    """The largest difference as a part of the largest number: in the result, or a thousandth of that in the inputs.

    A result that cancels out (a mean subtracted from a constant) is rounding, and its range measures nothing.
    """
    if dense.is_complex():
        dense, small = torch.view_as_real(dense), torch.view_as_real(small)
    difference = largest_difference(Outputs([dense], torch.float64), Outputs([small], torch.float64))
    if difference == 0 or not math.isfinite(difference):
        return difference
    own, read = _range(dense), max(map(_range, inputs), default=0.0)
    return difference * own / max(own, 1e-3 * read) if own else difference


def _range(tensor: Tensor) -> float:
    if not tensor.numel() or tensor.is_complex():
        return 0.0
    return float(tensor.double().abs().nan_to_num(posinf=0).max())


def _place(module: str) -> str:
    return f"module '{module}'" if module else "the model's own forward"
