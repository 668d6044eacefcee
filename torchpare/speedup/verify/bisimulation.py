"""Dense and small model side by side, operator by operator: which operators compute something else?

After each operator of the dense run, the part of its result that stays must be what the small model computed there.
Then the dense run goes on with the small model's numbers, zeros where something went. So every operator is judged by
itself: one that differs by nature (a norm over the pruned axis) does not hide what comes behind it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchpare.graph import PruningSpace, Removal
from torchpare.graph.rules import apply_rules
from torchpare.speedup.proof import Outputs, largest_difference
from torchpare.speedup.verify.runs import exact_inputs, exact_twin, operators_of, record_exactly
from torchpare.speedup.verify.sequence import canonical_name
from torchpare.speedup.verify.tally import Bisimulation, Tally
from torchpare.speedup.verify.transfer import box_of, carry_over

__all__ = ["bisimulate"]

_DRAWS = frozenset(
    f"aten.{name}"
    for name in (
        *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "normal", "normal_"),
        *("uniform", "uniform_", "bernoulli", "bernoulli_", "random", "random_", "exponential_", "native_dropout"),
    )
)
"""Two draws of different sizes are different numbers; the dense run takes over those of the small one."""


def bisimulate(
    dense_model: nn.Module,
    small_model: nn.Module,
    example_inputs: Any,
    removal: Removal,
    *,
    tolerance: float = 1e-10,
) -> Bisimulation:
    """Compare every operator of the dense and the small model, each on the inputs the small one has there.

    Both are run on float64 copies on the CPU; neither is changed.

    Args:
        dense_model: the model as it was analysed, before the shrink.
        small_model: the same after the shrink.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        removal: what was removed.
        tolerance: relative difference above which two results are a mismatch.

    Returns:
        how often each operator differed. Expected are norms, means and softmaxes over the pruned axis; and
        ``parameter``, where constants were folded into biases. Anything else is a mistake.

    Raises:
        CaptureError: if the dense model holds an operator whose rule fails.
    """
    args, kwargs = exact_inputs(example_inputs)
    dense, small_twin = exact_twin(dense_model), exact_twin(small_model)
    starts = {**_named(small_twin, "parameter"), **_named(small_twin, "buffer")}
    _add_biases(dense, starts)
    program = record_exactly(dense, *exact_inputs(example_inputs))
    space = PruningSpace(apply_rules(program))
    gone = carry_over(removal, space)
    if isinstance(gone, str):
        why = f"on the CPU in float64 the analysis would remove something else of '{gone}' than was removed"
        return Bisimulation(tolerance=tolerance, incomparable=why)
    small = _run_small(copy.deepcopy(small_twin), *exact_inputs(example_inputs))
    run = _Lockstep(space, gone, small, tolerance)
    run.start_from(dense, starts)
    try:
        operators_of(dense, args, kwargs, run.see)
    except _Diverged as divergence:
        return Bisimulation(tolerance=tolerance, incomparable=f"the runs part ways: {divergence}")
    if run.rest:
        return Bisimulation(tolerance=tolerance, incomparable=f"the runs part ways: {run.rest}")
    return Bisimulation(run.tallies, tolerance)


class _Diverged(Exception):  # noqa: N818 - not an error, the end of a comparison
    """The dense run did something else than the small one."""


@dataclass(frozen=True)
class _Step:
    """One operator of the small run, and what it returned."""

    name: str
    module: str
    outputs: tuple[Tensor, ...]

    @property
    def what(self) -> str:
        return f"{self.name} in {_place(self.module)}"


def _run_small(twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[_Step]:
    steps: list[_Step] = []

    def see(self, name: str, module: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        """One operator of the dense run."""
        ops = self.space.program.ops
        op = ops[self._recorded] if self._recorded < len(ops) else None
        self._recorded += 1
        if op is None or (op.name, op.module, len(op.outputs)) != (name, module, len(outputs)):
            message = f"with other numbers the dense model takes another path, at {name} in {_place(module)}"
            raise _Diverged(message)
        canonical = canonical_name(name)
        if canonical is None:
            return
        step = self.small[self._position] if self._position < len(self.small) else None
        self._position += 1
        if step is None or (step.name, step.module, len(step.outputs)) != (canonical, module, len(outputs)):
            message = f"{'nothing' if step is None else step.what} against {canonical} in {_place(module)}"
            raise _Diverged(message)
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
        elif tuple(small.shape) == _shape_of(box):
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
        elif box is not None and tuple(small.shape) == _shape_of(box):
            dense.copy_(_scattered(small, box))

    def _box(self, dense: Tensor, uid: int) -> NDArray[np.bool_] | None:
        """Which elements of a dense tensor stay; None where all do."""
        box = box_of(self.space, self.gone, uid)
        return None if box.all() else np.broadcast_to(box, tuple(dense.shape)).copy()


def _named(model: nn.Module, kind: Literal["parameter", "buffer"]) -> dict[str, Tensor]:
    named = model.named_parameters if kind == "parameter" else model.named_buffers
    return dict(named(remove_duplicate=False))


def _add_biases(dense: nn.Module, small: Mapping[str, Tensor]) -> None:
    """Layers without a bias that were given one, to take over a constant, have one of zeros in the dense model."""
    modules, known = dict(dense.named_modules()), _named(dense, "parameter")
    for name in small:
        path, _, key = name.rpartition(".")
        module = modules.get(path)
        weight = getattr(module, "weight", None)
        if name not in known and key == "bias" and module is not None and isinstance(weight, Tensor):
            count = getattr(module, "out_channels", len(weight))
            module.bias = nn.Parameter(torch.zeros(count, dtype=weight.dtype), requires_grad=False)


def _shape_of(box: NDArray[np.bool_]) -> tuple[int, ...]:
    """The shape of what stays: along each axis equally many wherever any stay at all."""
    return tuple(int(box.sum(axis=axis).max(initial=0)) for axis in range(box.ndim))


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
