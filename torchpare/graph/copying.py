"""A copy of a model to be recorded: on another device, of plain classes, with nothing on it that is not its own.

Masks and quantizers play no part in it, since what is recorded is structure. Nor does ``fully_shard``, which forbids
copies: what it was called on is an empty object at first, of the class behind it, and is filled with copies of all but
FSDP's own state.
"""

# ruff: noqa: SLF001 - the dicts in which nn.Module keeps tensors and hooks are what is copied

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.numerics.shards import fsdp_class, in_pieces, whole

__all__ = ["copy_to"]

_PLAIN = frozenset((bool, int, float, str, type(None)))  # most of what a module keeps, and holds nothing


def copy_to(model: nn.Module, device: str) -> nn.Module:
    """A deep copy on ``device``, with tied tensors still tied, plain classes and none of torchpare's own hooks.

    Args:
        model: any module; where it is sharded and ``device`` is not ``"meta"``, all processes have to ask together.
        device: ``"meta"`` or ``"cpu"``.
    """
    memo = _moved_tensors(model, device)
    shells = _empty_shells(model, memo)
    twin = copy.deepcopy(model, memo)
    for module, shell in shells:
        vars(shell).update(copy.deepcopy(vars(module), memo))
    for module in twin.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "__module__", "").startswith("torchpare.") or _is_of_fsdp(hook):
                    del hooks[key]
                elif isinstance(hook, FunctionType):
                    hooks[key] = _of_the_copy(hook, memo)
        _make_plain(module)
    return twin


def _moved_tensors(model: nn.Module, device: str) -> dict[int, Any]:
    """What stands in the copy for each tensor, each empty dict of hooks, and what cannot be copied."""
    memo: dict[int, Any] = {}
    seen: dict[int, Any] = {}  # with the objects, so that nobody else gets their ids

    def is_seen(value: Any) -> bool:  # what a module keeps may hold itself
        known = id(value) in seen
        seen[id(value)] = value
        return known

    for module in model.modules():
        for value in vars(module).values():
            if type(value) is OrderedDict and not value:  # a module has a dozen for hooks, and copying each takes long
                memo[id(value)] = OrderedDict()
                continue
            if type(value) in _PLAIN:
                continue
            for held in pytree.tree_leaves(value, is_seen):  # parameters, buffers, what it keeps in a dict
                if isinstance(held, torch.jit.ScriptFunction):
                    memo[id(held)] = held
                elif isinstance(held, Tensor) and id(held) not in memo:
                    memo[id(held)] = _tensor_on(held, device)
    return memo


def _empty_shells(model: nn.Module, memo: dict[int, Any]) -> list[tuple[nn.Module, nn.Module]]:
    """What stands for each module that ``fully_shard`` was called on, still empty; its state is stood for by nobody."""
    shells: list[tuple[nn.Module, nn.Module]] = []
    for module in model.modules():
        if bases := fsdp_class(type(module)):
            kind: Any = bases[-1]
            shells.append((module, kind.__new__(kind)))
            memo[id(module)] = shells[-1][1]
            memo.update((id(hook.__self__), _Nobody()) for hook in _hooks_of_fsdp(module))
    return shells


def _of_the_copy(hook: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """A hook that remembers a module, or something of one, remembers the copy of it: functions are not copied."""
    closure = tuple(_cell_of_the_copy(cell, memo) for cell in hook.__closure__ or ())
    twin = FunctionType(hook.__code__, hook.__globals__, hook.__name__, hook.__defaults__, closure)
    twin.__kwdefaults__ = hook.__kwdefaults__
    return twin


def _cell_of_the_copy(cell: CellType, memo: dict[int, Any]) -> CellType:
    try:
        held = cell.cell_contents
    except ValueError:  # a name without a value so far
        return cell
    return CellType(memo[id(held)]) if id(held) in memo else cell


def _make_plain(module: nn.Module) -> None:
    """Take masks and quantizers off."""
    plain = getattr(type(module), "torchpare_plain_class", None)
    if plain is None:
        return
    for name in [name for name in module._buffers if name.endswith("_mask") and name[:-5] in module._parameters]:
        del module._buffers[name]
    for name, child in list(module._modules.items()):
        if name.endswith("_quantizer") and type(child).__module__.startswith("torchpare."):
            del module._modules[name]
    module.__class__ = plain


class _Nobody:
    """Whose FSDP's hooks are in a copy, until they are taken off."""


def _hooks_of_fsdp(module: nn.Module) -> Iterator[MethodType]:
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if isinstance(hook, MethodType) and _is_of_fsdp(hook):
            yield hook


def _is_of_fsdp(hook: Any) -> bool:
    return getattr(hook, "__module__", "").startswith("torch.distributed.fsdp.")


def _tensor_on(tensor: Tensor, device: str) -> Tensor:
    if in_pieces(tensor):
        moved = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") if device == "meta" else whole(tensor)
        moved = moved.detach().to(device)
    else:
        moved = torch.empty_like(tensor, device="meta") if device == "meta" else tensor.detach().to(device, copy=True)
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
