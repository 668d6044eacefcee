"""Whether two models return the same, bit for bit, and if not, where they begin to differ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.graph.capture import call_arguments

__all__ = ["first_difference", "outputs"]


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors that a model returns in evaluation mode; its modes and the random numbers are as before."""
    return _run(model, inputs)


def first_difference(model: nn.Module, other: nn.Module, inputs: Any) -> str | None:
    """Where two models differ, in words; None if every tensor they return is the same.

    Args:
        model: runs on the inputs.
        other: may fail to.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
    """
    seen: list[tuple[str, Tensor]] = []
    want = _run(model, inputs, lambda name, tensor: seen.append((name, tensor)))
    rest, found = iter(seen), []

    def compare(name: str, tensor: Tensor) -> None:
        its, before = next(rest, (name, tensor))
        if its != name or not _same(before, tensor):
            found.append(name)

    try:
        have = _run(other, inputs, compare)
    except Exception as error:  # noqa: BLE001 - whatever a model may raise
        return f"{found[0] if found else 'it'} fails to run: {type(error).__name__}: {error}"
    if len(want) == len(have) and all(map(_same, want, have)):
        return None
    return f"{found[0] or 'it' if found else 'it'} returns something else"


def _same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and torch.equal(one.nan_to_num(), two.nan_to_num())


def _run(model: nn.Module, inputs: Any, watch: Callable[[str, Tensor], None] | None = None) -> list[Tensor]:
    """What a model returns; `watch` is shown the first tensor that each module returns, in the order of running."""
    args, kwargs = call_arguments(copy.deepcopy(inputs))
    modes = [(module, module.training) for module in model.modules()]

    def hook(name: str) -> Callable[..., None]:
        def show(_module: nn.Module, _args: Any, result: Any) -> None:
            first = next(_tensors(result), None)
            if watch is not None and first is not None:
                watch(name, first.clone())

        return show

    hooks = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()] if watch else []
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            return list(_tensors(model(*args, **kwargs)))
    finally:
        for handle in hooks:
            handle.remove()
        for module, mode in modes:
            module.training = mode


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
