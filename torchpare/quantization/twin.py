"""A quantized model beside the float model that it stands for, run on the same batches, layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import CompressedLayer, detach_quantizers, quantizers_of
from torchpare.errors import QuantizationError
from torchpare.graph.capture import call_arguments
from torchpare.numerics.shards import refuse_sharded
from torchpare.quantization.held import Batches, Memory

__all__ = ["evaluated", "float_twin", "quantized_layers", "run", "watched"]


def float_twin(model: nn.Module) -> nn.Module:
    """A copy of a quantized model without its quantizers, in evaluation mode; masks stay."""
    twin = copy.deepcopy(model)
    detach_quantizers(twin, bake=False)
    return twin.eval().requires_grad_(False)


def quantized_layers(model: nn.Module, batches: Iterable[Any], memory: Memory) -> tuple[list[str], Batches]:
    """The layers whose weights are quantized, in the order in which the model calls them; and the batches, kept.

    Raises:
        QuantizationError: the model has no quantizers or is sharded, there is no batch, or no such layer was called.
    """
    refuse_sharded(model, "cannot be set beside its float twin", QuantizationError)
    names = list(dict.fromkeys(
        path for path, layer, kind, _ in quantizers_of(model) if kind == "weight" and layer.torchpare_quantized
    ))  # fmt: skip
    if not names:
        raise QuantizationError("no weight of the model is quantized: make a quantizer and call compress() first")
    held = Batches(batches, memory)
    if not len(held):
        raise QuantizationError("there are no batches: give some that are like those the model will meet")
    order: dict[str, None] = {}
    layers = dict(model.named_modules())
    handles = [
        layers[name].register_forward_hook(lambda *_, name=name: order.setdefault(name)) for name in names
    ]  # fmt: skip
    try:
        with evaluated(model):
            for batch in held:
                run(model, batch)
                if len(order) == len(names):
                    break
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise QuantizationError("the model called none of its quantized layers on these batches")
    return list(order), held


def run(model: nn.Module, batch: Any) -> Any:
    """The model on a batch: a tensor, a tuple of positional arguments, or a dict of keyword arguments."""
    args, kwargs = call_arguments(batch)
    return model(*args, **kwargs)


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; the modes of all its modules come back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def watched(model: nn.Module, name: str, take: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Calls ``take(input, output)`` at each call of a layer; the output is what the layer itself computes.

    An output quantizer, being a hook, has not yet met the output. What follows may write to it: take what is needed at
    once.
    """
    layer = dict(model.named_modules())[name]

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        del module
        given = args[0] if args else kwargs.get("input")
        if given is not None and isinstance(output, Tensor):
            take(given.detach(), output.detach())

    handle = layer.register_forward_hook(see, prepend=True, with_kwargs=True)
    try:
        with evaluated(model):
            yield
    finally:
        handle.remove()


def compressed(model: nn.Module, name: str) -> CompressedLayer:
    """A layer by its name."""
    layer = model.get_submodule(name)
    assert isinstance(layer, CompressedLayer)
    return layer
