"""Results on the meta device, remembered: the blocks of a network ask for the same shapes again and again.

torch works out many of them in Python (a batch norm in evaluation mode takes a millisecond), which would be half of
the time that recording a network takes.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["MetaResults"]

_Layout: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
_META = torch.device("meta")
_BATCH_NORM = torch.ops.aten.native_batch_norm.default


class MetaResults:
    """Runs operators; what only makes new tensors on the meta device is not worked out twice."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[list[_Layout], pytree.TreeSpec]] = {}

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What ``func`` returns."""
        if not _only_makes(func):
            return func(*args, **kwargs)
        if func is _BATCH_NORM and _is_plain_norm(*args):
            return _normed(args[0], args[3])
        key = func, _key(args), _key(kwargs)
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
        if _are_new(results, pytree.tree_leaves((args, kwargs))):
            self._known[key] = ([(tuple(t.shape), t.stride(), t.dtype) for t in results], out)
        return result


@cache
def _only_makes(func: Any) -> bool:
    """Whether, by its schema, an operator neither writes to what it is given nor returns views of it."""
    schema = func._schema  # noqa: SLF001 - there is no public way to it
    return not schema.is_mutable and all(value.alias_info is None for value in (*schema.arguments, *schema.returns))


def _key(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        if not _is_plain(argument):
            return object()  # equals nothing: what has values is worked out each time
        return argument.shape, argument.stride(), argument.dtype, argument.storage_offset()
    if isinstance(argument, (tuple, list)):
        return type(argument), *map(_key, argument)
    if isinstance(argument, dict):
        return tuple((name, _key(value)) for name, value in argument.items())
    return type(argument), argument


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_meta and type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided


def _is_plain_norm(x: Tensor, *others: Any) -> bool:
    """Whether a batch norm runs on its statistics, and everything is of one type with nothing to widen."""
    statistics, training = others[:4], others[4]
    tensors = [x, *(tensor for tensor in statistics if tensor is not None)]
    alike = all(_is_plain(tensor) and tensor.dtype == x.dtype for tensor in tensors)
    return alike and not training and x.is_contiguous() and x.dtype in (torch.float32, torch.float64)


def _normed(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch norm on its statistics returns them too; nothing here that takes long to work out."""
    return torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)


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
