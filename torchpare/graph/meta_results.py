"""Results on the meta device, remembered: the blocks of a network ask for the same shapes again and again.

torch works out many of them in Python (a batch norm in evaluation mode takes a millisecond), which would be half of
the time that recording a network takes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["MetaResults"]

_Layout: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
_META = torch.device("meta")


class MetaResults:
    """Runs operators; what only makes new tensors on the meta device is not worked out twice."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[list[_Layout], pytree.TreeSpec]] = {}

    def __call__(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], spec: pytree.TreeSpec
    ) -> Any:
        """What ``func`` returns; ``leaves`` and ``spec`` are its arguments flattened."""
        if not _only_makes(func):
            return func(*args, **kwargs)
        key = (func, spec, *map(_key, leaves))
        try:
            known = self._known.get(key)
        except TypeError:  # an argument that cannot be a key
            return func(*args, **kwargs)
        if known is not None:
            layouts, out = known
            made = [torch.empty_strided(size, stride, dtype=dtype, device=_META) for size, stride, dtype in layouts]
            return pytree.tree_unflatten(made, out)
        result = func(*args, **kwargs)
        results, out = pytree.tree_flatten(result)
        if _are_new(results, leaves):
            self._known[key] = ([(tuple(t.shape), t.stride(), t.dtype) for t in results], out)
        return result


def _only_makes(func: Any) -> bool:
    """Whether, by its schema, an operator neither writes to what it is given nor returns views of it."""
    schema = func._schema  # noqa: SLF001 - there is no public way to it
    return not schema.is_mutable and all(value.alias_info is None for value in (*schema.arguments, *schema.returns))


def _key(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return type(leaf), leaf
    if leaf.device != _META or type(leaf) not in (Tensor, torch.nn.Parameter) or leaf.layout != torch.strided:
        return object()  # equals nothing: what has values is worked out each time
    return leaf.shape, leaf.stride(), leaf.dtype, leaf.storage_offset()


def _are_new(results: list[Any], leaves: list[Any]) -> bool:
    """Whether all results are plain tensors on the meta device with memory of their own."""
    given = {_memory(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.layout == torch.strided}
    return all(
        type(result) is Tensor
        and result.device == _META
        and result.layout == torch.strided
        and result.storage_offset() == 0
        and _memory(result) not in given
        for result in results
    )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # noqa: SLF001 - on the meta device all data pointers are 0
