"""What a model is first called with, as an example input: of a user's evaluator, where none was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.pruning.groups import named_arguments

__all__ = ["first_batch"]


@contextmanager
def first_batch(model: nn.Module) -> Iterator[list[Any]]:
    """Collects what the model is first called with, as an example input."""
    seen: list[Any] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not seen:
            example = named_arguments(module, args, kwargs) if kwargs else args
            seen.append(pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, example))

    handle = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
