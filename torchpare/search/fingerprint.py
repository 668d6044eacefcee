"""Which search a journal is of: equal for the same search started again, other for any other one."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["of_code", "of_example", "of_model"]

_PLAIN = (bool, int, float, str, type(None))


def of_model(model: nn.Module) -> str:
    """A name for a model's parameters and buffers: their names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):  # masks lie in the order in which they were put on
        if isinstance(tensor, Tensor):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def of_example(example: Any) -> str:
    """A name for the kind of an example input: types, shapes and devices, on which costs depend, but not the values."""
    leaves = (
        f"{leaf.dtype} {tuple(leaf.shape)} {leaf.device.type}" if isinstance(leaf, Tensor) else type(leaf).__name__
        for leaf in pytree.tree_leaves(example)
    )
    return ", ".join(leaves)


def of_code(function: Any) -> str:
    """A name for what a function does, as far as it can be told: its code, constants and defaults.

    What it calls and closes over does not count. Of a partial function the arguments do, where they are numbers, words
    or the like.
    """
    if function is None:
        return ""
    if isinstance(function, functools.partial):
        given = [*enumerate(function.args), *sorted(function.keywords.items())]
        plain = [(name, value) for name, value in given if isinstance(value, _PLAIN)]
        return f"partial {of_code(function.func)} {plain!r}"
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None:
        code = getattr(vars(type(function)).get("__call__"), "__code__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if code is None:
        return name
    defaults = [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)]
    plain = [value for value in (*(defaults[0] or ()), *(defaults[1] or {}).values()) if isinstance(value, _PLAIN)]
    said = repr(plain).encode() if plain else b""
    return f"{name} {hashlib.sha256(_bytes(code) + said).hexdigest()[:16]}"


def _bytes(code: types.CodeType) -> bytes:
    constants = b"".join(
        _bytes(value) if isinstance(value, types.CodeType) else repr(value).encode()
        for value in code.co_consts
        if not isinstance(value, frozenset)  # printed in an order of its own each time
    )
    return code.co_code + constants + repr(code.co_names).encode()
