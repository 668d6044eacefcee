"""What a program is given: in the order of its example's inputs, on the CPU, with floats in float32 as it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from torchpare.errors import ExportError
from torchpare.graph.capture import call_arguments

__all__ = ["computed", "in_order", "shapes_of"]


def computed(data: Any) -> Any:
    """An input in its own form, as programs compute: tensors on the CPU, those of floats in float32.

    Raises:
        ExportError: a tensor is on the meta device.
    """

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_meta:
            raise ExportError(f"an input of shape {tuple(leaf.shape)} is on the meta device, where it has no values: "
                              "give one on the CPU")  # fmt: skip
        leaf = leaf.detach().cpu()
        return leaf.float() if leaf.is_floating_point() else leaf

    return pytree.tree_map(cast, data)


def in_order(example: Any, data: Any) -> list[Any]:
    """The leaves of an input in the order in which a program that was recorded on an example takes them.

    Args:
        example: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        data: in that form; keyword arguments may come in another order.

    Raises:
        ExportError: it has other inputs than the example, or other values where that holds no tensors, which are part
            of the program.
    """
    (known_args, known_kwargs), (args, kwargs) = call_arguments(example), call_arguments(data)
    known = pytree.tree_leaves((known_args, known_kwargs))
    if kwargs.keys() == known_kwargs.keys():
        leaves = pytree.tree_leaves((args, {key: kwargs[key] for key in known_kwargs}))
    else:
        leaves = pytree.tree_leaves((args, kwargs))
    one = len(known) == 1 and len(leaves) == 1  # which has no order
    if len(leaves) != len(known) or (kwargs.keys() != known_kwargs.keys() and not one):
        raise ExportError(
            f"the input holds {_told(args, kwargs)}; like the example, give {_told(known_args, known_kwargs)} and no "
            "others, such as labels"
        )
    for at, (have, want) in enumerate(zip(leaves, known, strict=True)):
        if isinstance(want, Tensor) != isinstance(have, Tensor):
            of = "a tensor" if isinstance(want, Tensor) else repr(want)
            raise ExportError(f"input {at} is a {type(have).__name__}, and the example has {of} there")
        if not isinstance(want, Tensor) and have != want:
            raise ExportError(f"input {at} is {have!r}, and the program was recorded with {want!r}, which is part of "
                              "it: make another program")  # fmt: skip
    return leaves


def shapes_of(leaves: list[Any]) -> list[tuple[Any, ...]]:
    """Shapes and dtypes of tensors, for messages: ``[(8, 3, 6, 6, 'float32')]``."""
    return [(*leaf.shape, str(leaf.dtype).removeprefix("torch.")) for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _told(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    number = len(pytree.tree_leaves(args))
    parts = [f"{number} positional inputs" if number != 1 else "1 positional input"] if number or not kwargs else []
    return " and ".join([*parts, *([f"the keywords {', '.join(map(repr, kwargs))}"] if kwargs else [])])
