"""Judges of a shrink that share no code with it: a model masked by hand, a fingerprint, a second recording."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.graph import Removal
from torchpare.graph.capture import capture
from torchpare.graph.program import Program
from torchpare.types import Masks

__all__ = ["exact_output", "fingerprint", "masked_by_hand", "relative", "retrace"]


def masked_by_hand(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy whose parameters are multiplied by their masks."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer, own in masks.items():
            for name, mask in own.items():
                twin.get_submodule(layer).get_parameter(name).mul_(mask)
    return twin


@torch.no_grad()
def exact_output(model: nn.Module, x: Any) -> Tensor:
    """The output in float64 and evaluation mode."""
    args = x if isinstance(x, tuple) else (x,)
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    return copy.deepcopy(model).double().eval()(*args)


def relative(reference: Tensor, other: Tensor) -> float:
    """The largest difference, as a part of the reference's largest value."""
    assert reference.shape == other.shape
    return float((reference - other).abs().max() / reference.abs().max())


def fingerprint(model: nn.Module) -> list[Any]:
    """Everything that a shrink could change: objects, bits, classes, attributes, hooks, modes, gradients."""
    found: list[Any] = []
    for path, module in model.named_modules(remove_duplicate=False):
        found.append((path, id(module), type(module), module.training))
        for name, value in sorted(vars(module).items()):
            if name in ("_parameters", "_buffers"):
                for key, tensor in sorted(value.items()):
                    same = None if key.endswith("_mask") else id(tensor)  # masks are taken off and put on again
                    found.append((name, key, same, _bits(tensor)))
            elif name.endswith("_hooks"):
                found.append((name, list(value)))
            elif name != "_modules":
                found.append((name, repr(value)))
    return found


def _bits(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    gradient = None if tensor.grad is None else tensor.grad.tolist()
    return tensor.dtype, tensor.requires_grad, tensor.detach().clone().double().tolist(), gradient


_SILENT = {"aten." + name for name in ("clone", "contiguous", "detach", "alias", "_to_copy", "lift_fresh", "empty")}
_SAME = {"aten._unsafe_view": "aten.view", "aten.reshape": "aten.view", "aten.mm": "aten.addmm"}


def _loud(program: Program) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(_SAME.get(op.name, op.name), op.module, op.outputs) for op in program.ops if op.name not in _SILENT]


def retrace(small: nn.Module, x: Any, removal: Removal) -> int:
    """Record the small model: every tensor has the shape that was planned for it.

    Held against the plan are what modules return, and what operators return where the operators are the same: a
    linear layer is another sequence of them where its input happens to lie in memory in another order.

    Returns:
        how many tensors were compared.
    """
    planned, seen = removal.space.program, capture(small, x)
    before, after = planned.module_outputs, seen.module_outputs
    assert [path for path, _ in before] == [path for path, _ in after]
    pairs = [(path, old, new) for (path, old), (_, new) in zip(before, after, strict=True)]
    one, two = _loud(planned), _loud(seen)
    if [op[:2] for op in one] == [op[:2] for op in two]:
        for (name, module, olds), (_, _, news) in zip(one, two, strict=True):
            pairs += [(f"{name} in '{module}'", old, new) for old, new in zip(olds, news, strict=True)]
    for place, old, new in pairs:
        expected, found = removal.shape(old), seen.values[new].shape
        assert expected == found, f"{place} makes {found}, planned was {expected}"
    return len(pairs)
