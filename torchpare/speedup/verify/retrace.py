"""The small model recorded anew: is every tensor in it of the shape that was planned?"""

from __future__ import annotations

from typing import Any

from torch import nn

from torchpare.errors import ProofError
from torchpare.graph import Removal
from torchpare.graph.capture import capture
from torchpare.graph.program import Program
from torchpare.speedup.verify.sequence import canonical_name

__all__ = ["retrace"]


def retrace(small_model: nn.Module, example_inputs: Any, removal: Removal) -> int:
    """Record the small model and hold every shape against the plan. Costs no arithmetic where meta tensors suffice.

    Compared are the tensors that modules return, and those that operators return wherever both runs dispatch the same
    operators: a linear layer is another sequence of them where its input lies in memory in another order.

    Args:
        small_model: the model after the shrink; it is not changed.
        example_inputs: what the dense model was analysed with.
        removal: what was removed.

    Returns:
        how many tensors were compared.

    Raises:
        CaptureError: if the small model cannot be run.
        ProofError: if a tensor has another shape than planned; names the operator and its module.
    """
    planned, seen = removal.space.program, capture(small_model, example_inputs)
    before, after = planned.module_outputs, seen.module_outputs
    if [path for path, _ in before] != [path for path, _ in after]:
        message = "the small model runs other modules than the dense one did, so that its shapes cannot be compared"
        raise ProofError(message)
    one, two = _loud(planned), _loud(seen)
    pairs: list[tuple[str, int, int]] = []
    if [op[:2] for op in one] == [op[:2] for op in two]:  # first, for they name the place more closely
        for (name, module, olds, where), (_, _, news, _) in zip(one, two, strict=True):
            if len(olds) != len(news):
                message = f"{name} in module '{module}' returns {len(news)} tensors, and returned {len(olds)}"
                raise ProofError(message)
            pairs += [(f"{name} in {where}", old, new) for old, new in zip(olds, news, strict=True)]
    pairs += [(f"module '{path}'", old, new) for (path, old), (_, new) in zip(before, after, strict=True)]
    for place, old, new in pairs:
        expected, found = removal.shape(old), seen.values[new].shape
        if expected != found:
            message = f"{place} makes a tensor of shape {found}; planned was {expected}"
            raise ProofError(message)
    return len(pairs)


def _loud(program: Program) -> list[tuple[str, str, tuple[int, ...], str]]:
    """(canonical name, module path, uids of outputs, where) of every operator that computes something."""
    named = [(canonical_name(op.name), op) for op in program.ops]
    return [(name, op.module, op.outputs, op.where) for name, op in named if name is not None]
