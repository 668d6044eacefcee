"""Dense and small model side by side, operator by operator: which operators compute something else?

After each operator of the dense run, the part of its result that stays must be what the small model computed there.
Then the dense run goes on with the small model's numbers, zeros where something went. So every operator is judged by
itself: one that differs by nature (a norm over the pruned axis) does not hide what comes behind it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.graph import PruningSpace, Removal
from torchpare.graph.rules import apply_rules
from torchpare.speedup.verify.lockstep import Diverged, Lockstep, named_tensors, run_small
from torchpare.speedup.verify.runs import exact_inputs, exact_twin, operators_of, record_exactly
from torchpare.speedup.verify.tally import Bisimulation
from torchpare.speedup.verify.transfer import carry_over

__all__ = ["bisimulate"]


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
    starts = {**named_tensors(small_twin, "parameter"), **named_tensors(small_twin, "buffer")}
    _add_biases(dense, starts)
    program = record_exactly(dense, *exact_inputs(example_inputs))
    space = PruningSpace(apply_rules(program))
    gone = carry_over(removal, space)
    if isinstance(gone, str):
        why = f"on the CPU in float64 the analysis would remove something else of '{gone}' than was removed"
        return Bisimulation(tolerance=tolerance, incomparable=why)
    small = run_small(copy.deepcopy(small_twin), *exact_inputs(example_inputs))
    run = Lockstep(space, gone, small, tolerance)
    run.start_from(dense, starts)
    try:
        operators_of(dense, args, kwargs, run.see)
    except Diverged as divergence:
        return Bisimulation(tolerance=tolerance, incomparable=f"the runs part ways: {divergence}")
    if run.rest:
        return Bisimulation(tolerance=tolerance, incomparable=f"the runs part ways: {run.rest}")
    return Bisimulation(run.tallies, tolerance)


def _add_biases(dense: nn.Module, small: Mapping[str, Tensor]) -> None:
    """Layers without a bias that were given one, to take over a constant, have one of zeros in the dense model."""
    modules, known = dict(dense.named_modules()), named_tensors(dense, "parameter")
    for name in small:
        path, _, key = name.rpartition(".")
        module = modules.get(path)
        weight = getattr(module, "weight", None)
        if name not in known and key == "bias" and module is not None and isinstance(weight, Tensor):
            count = getattr(module, "out_channels", len(weight))
            module.bias = nn.Parameter(torch.zeros(count, dtype=weight.dtype), requires_grad=False)
