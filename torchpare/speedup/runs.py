"""Runs of the user's model that leave nothing behind: in float64 and masked, for the proof, or as it will be used.

A run reads copies of the model's tensors, in float64 and times their masks if so asked. Nothing of the user's model is
written: `torch.func.functional_call` lends it the copies for one call, and what its code writes is put back.
"""

# ruff: noqa: SLF001 - buffers are put back where nn.Module keeps them

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from torchpare.graph.caches import caches_of
from torchpare.graph.capture import call_arguments, plain_operators
from torchpare.graph.recorder import map_tensors, output_tensors
from torchpare.layers import adopt
from torchpare.speedup.patches import Patches
from torchpare.speedup.proof import Outputs
from torchpare.speedup.reference import ReferenceMode

__all__ = ["run_as_it_is", "run_exact", "type_in_run"]


def run_exact(
    model: nn.Module,
    dummy_input: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    lent: Mapping[str, Tensor] | None = None,
    patches: Patches | None = None,
    dtype: torch.dtype = torch.float64,
    watch: Callable[[nn.Module, str, Tensor], None] | None = None,
    select: Callable[[Any], Any] | None = None,
) -> Outputs:
    """Run a model in evaluation mode on float64 copies of its tensors, masked.

    Args:
        model: left as it was, caches that its forward writes included.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        masks: by qualified parameter name.
        lent: parameters to compute with in place of the model's own, by qualified name.
        patches: operators that should see what stays alone; see `torchpare.speedup.reference`.
        dtype: the floating type to compute in.
        select: picks what to return of what the model returns; everything, if not given.
        watch: called with (module, path, output) for every tensor that a module returns, in order.
    """
    tensors = {
        **_copies(model, masks or {}, dtype),
        **{name: t.to(type_in_run(t, dtype)) for name, t in (lent or {}).items()},
    }
    args, kwargs = call_arguments(dummy_input)
    args, kwargs = map_tensors(lambda t: t.to(type_in_run(t, dtype)), (args, kwargs))
    default = torch.get_default_dtype()
    stack = [""]
    lent_classes = _adopted(model) if patches is not None else nullcontext()  # patches are told by recorded operators
    mode = ReferenceMode(dtype, patches, stack)
    aside = torch.random.fork_rng(devices=[])
    with (
        plain_operators(),
        _as_it_was(model),
        lent_classes,
        _watching(model, watch, stack),
        torch.no_grad(),
        aside,
        mode,
    ):
        torch.manual_seed(0)  # models that draw numbers draw the same ones each time
        model.eval()
        torch.set_default_dtype(dtype)
        try:
            output = functional_call(model, tensors, args, kwargs, tie_weights=False)
        except Exception as error:
            error.torchpare_module = stack[-1]  # type: ignore[attr-defined] - where it happened, for who can mend it
            raise
        finally:
            torch.set_default_dtype(default)
    output = output if select is None else select(output)
    return Outputs([tensor.detach() for tensor in output_tensors(output)], dtype)


def run_as_it_is(model: nn.Module, dummy_input: Any) -> None:
    """Run a model in evaluation mode as its user will: in its own types, with the kernels that torch chooses.

    What float64 forgives (the strides of a view, a width that a fast kernel does not take) comes to light here.

    Raises:
        Exception: whatever the model's own code raises.
    """
    args, kwargs = map_tensors(torch.clone, call_arguments(dummy_input))
    with _as_it_was(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        model.eval()
        functional_call(model, _copies(model, {}, None), args, kwargs, tie_weights=False)


def _copies(model: nn.Module, masks: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What the run reads: parameters times their masks, and buffers, which a forward pass may write.

    A tied tensor has one copy, masked by whatever name its mask goes. A module that is registered twice is named once:
    lent twice, `functional_call` would take the first copy for the original when it puts things back.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks_by_id = {id(parameters[name]): mask for name, mask in masks.items() if name in parameters}
    tensors: dict[str, Tensor] = {}
    copies: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            if id(tensor) not in copies:
                mask = masks_by_id.get(id(tensor))
                wanted = tensor.dtype if dtype is None else type_in_run(tensor, dtype)
                copies[id(tensor)] = tensor.detach().to(wanted, copy=True)  # a forward pass may write what it reads
                if mask is not None:
                    copies[id(tensor)].mul_(mask.to(tensor.device))
            tensors[f"{path}.{key}" if path else key] = copies[id(tensor)]
    return tensors


def type_in_run(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The type of a tensor in a run in ``dtype``: complex numbers of two such parts; whole numbers stay as they are."""
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass may write beside its output: module attributes, caches, buffers, training modes."""
    namespaces = [(module, dict(module.__dict__)) for module in model.modules()]
    # Hooks and caches are put into dicts and lists that stay the same objects. Submodules and parameters lie in such
    # dicts too, and are put back with the rest.
    containers: dict[int, Any] = {}
    for _, namespace in namespaces:
        containers.update((id(value), value) for value in namespace.values() if isinstance(value, (dict, list)))
    contents = [(value, _entries(value)) for value in containers.values()]
    for cache in caches_of(model):
        cache.clear()  # what was computed from parameters in another type, or from all of them
    try:
        yield
    finally:
        for module, namespace in namespaces:
            module.__dict__.clear()
            module.__dict__.update(namespace)
        for container, content in contents:
            now = _entries(container)
            if len(now) == len(content) and all(map(operator.is_, now, content)):
                continue  # some containers refuse every change
            if isinstance(container, dict):
                container.clear()
                container.update(zip(content[::2], content[1::2], strict=True))
            else:
                container[:] = content


def _entries(container: dict[Any, Any] | list[Any]) -> list[Any]:
    """What a list holds; the keys and values of a dict in turn."""
    if isinstance(container, dict):
        return [part for item in container.items() for part in item]
    return list(container)


@contextmanager
def _adopted(model: nn.Module) -> Iterator[None]:
    """Run stock attentions by the class that was recorded in their place; their attributes are put back by others."""
    stock = [module for module in model.modules() if type(module) is nn.MultiheadAttention]
    for module in stock:
        adopt(module)
    try:
        yield
    finally:
        for module in stock:
            module.__class__ = nn.MultiheadAttention


@contextmanager
def _watching(
    model: nn.Module, watch: Callable[[nn.Module, str, Tensor], None] | None, stack: list[str]
) -> Iterator[None]:
    """Keep the path of the running module on ``stack``, and show ``watch`` what modules return."""
    handles = []
    for path, module in model.named_modules():

        def enter(_module: nn.Module, _args: Any, path: str = path) -> None:
            stack.append(path)

        def leave(module: nn.Module, _args: Any, output: Any, path: str = path) -> None:
            stack.pop()
            if watch is not None:
                for tensor in output_tensors(output):
                    watch(module, path, tensor)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
