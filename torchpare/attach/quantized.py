"""Quantizers on layers: put them on a weight, an input or an output, find them, take them off."""

# ruff: noqa: SLF001 - children and hooks are put where nn.Module keeps them

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchpare.attach.layer import CompressedLayer, shadow, unshadow
from torchpare.attach.quantizer import FakeQuantize
from torchpare.attach.ranks import many_ranks
from torchpare.attach.reading import ACTIVATIONS, QUANTIZER, in_use
from torchpare.config.layers import type_name
from torchpare.errors import QuantizationError
from torchpare.numerics.shards import placed_like, reshard

__all__ = [
    "attach_activation_quantizer",
    "attach_weight_quantizer",
    "detach_quantizers",
    "quantizable",
    "quantizers_of",
]


def quantizable(layer: nn.Module) -> tuple[str, ...]:
    """The parameters of a layer that count as its weights: matrices, filters, slopes; no biases, no norms."""
    own = layer._parameters.items()
    if isinstance(layer, nn.PReLU):
        return ("weight",)
    return tuple(name for name, value in own if _is_matrix(value) and not name.startswith("bias"))


def _is_matrix(value: Tensor | None) -> bool:
    """Whether a parameter has two axes or more, of real numbers; one that has no shape yet may come to have them."""
    if value is None or isinstance(value, nn.UninitializedParameter):
        return value is not None
    return value.dim() > 1 and value.is_floating_point()


def check_quantizable(layer: nn.Module, name: str, child: str) -> None:
    """Check that a quantizer can hang on a layer, without attaching; ``name`` is the layer's, for the message.

    Raises:
        QuantizationError: the layer is TorchScript, or has something else under the name of the child.
    """
    if isinstance(layer, torch.jit.ScriptModule):
        raise QuantizationError(f"{name}: a TorchScript module cannot be quantized; use the Python module it came from")
    if hasattr(layer, child) and not isinstance(layer._modules.get(child), FakeQuantize):
        raise QuantizationError(f"{name}: the {type_name(layer)} already has {child!r}, where the quantizer would lie")


def attach_weight_quantizer(
    layer: nn.Module, name: str, quantizer: FakeQuantize, fold: nn.Module | None = None
) -> None:
    """Read the parameter ``name`` of a layer through a quantizer; one that is there is replaced.

    Args:
        layer: stays the same object; only its class becomes a subclass.
        name: the parameter's own name in the layer, such as ``"weight"``.
        quantizer: called with the masked parameter at each reading.
        fold: a batch norm after the layer: the weight is quantized as it will be once that is folded into it.
    """
    quantizer.to(layer._parameters[name].device)  # type: ignore[union-attr]
    layer._modules[name + QUANTIZER] = quantizer
    quantizer.train(layer.training)
    shadow(layer, (name,))
    layer.__dict__.pop("torchpare_fold", None)
    if fold is not None:
        layer.torchpare_fold = (fold,)  # type: ignore[assignment]
    _hook(layer._forward_pre_hooks, layer.register_forward_pre_hook, before_forward)


def attach_activation_quantizer(layer: nn.Module, kind: Literal["input", "output"], quantizer: FakeQuantize) -> None:
    """Quantize what a layer is called with, or what it returns; a quantizer that is there is replaced.

    Args:
        layer: stays the same object; it gets a child and a hook.
        kind: ``"input"``: every floating-point tensor given by position, all with one grid; ``"output"``: the tensor
            that is returned, or the first of several.
        quantizer: called with each of them.
    """
    device = next((tensor.device for tensor in layer.parameters()), None)
    quantizer.to(device)
    layer._modules[ACTIVATIONS[kind]] = quantizer
    quantizer.train(layer.training)
    shadow(layer, ())
    _hook(layer._forward_pre_hooks, layer.register_forward_pre_hook, before_forward)
    if kind == "output":
        _hook(layer._forward_hooks, layer.register_forward_hook, after_forward)


def detach_quantizers(model: nn.Module, bake: bool) -> None:
    """Take all quantizers off; masks stay.

    Args:
        model: changed in place; the ``Parameter`` objects stay.
        bake: True writes the quantized values into the parameters, False leaves the dense ones.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, CompressedLayer)]
    if bake:
        reshard(model)
        _bake(layers)
    for layer in layers:
        for name in (*(name + QUANTIZER for name in layer.torchpare_quantized), *ACTIVATIONS.values()):
            layer._modules.pop(name, None)
        layer.__dict__.pop("torchpare_fold", None)
        for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
            for key in [key for key, hook in hooks.items() if hook in (before_forward, after_forward)]:
                del hooks[key]
        unshadow(layer)


@torch.no_grad()
def _bake(layers: list[CompressedLayer]) -> None:
    """Write what is used in place of each parameter into it: read all first, since layers may share one."""
    used = {
        id(layer._parameters[name]): (layer._parameters[name], in_use(layer, name).clone())
        for layer in layers
        for name in layer.torchpare_quantized
    }
    for parameter, value in used.values():
        assert parameter is not None
        parameter.copy_(placed_like(value, parameter))


def quantizers_of(model: nn.Module) -> Iterator[tuple[str, CompressedLayer, str, FakeQuantize]]:
    """Every quantizer with its layer's name, its layer, and what it quantizes: a parameter, "input" or "output"."""
    kinds = {child: kind for kind, child in ACTIVATIONS.items()}
    for path, layer in model.named_modules():
        if isinstance(layer, CompressedLayer):
            for name, child in layer._modules.items():
                if isinstance(child, FakeQuantize):
                    yield path, layer, kinds.get(name, name.removesuffix(QUANTIZER)), child


# Functions of a module, not closures: they are pickled by name, and a compiler sees one and the same code.


def before_forward(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A step begins for the quantizers of a layer; what it is called with is observed and quantized."""
    learning = layer.training and not _is_recomputed()
    for name in layer.torchpare_quantized:  # type: ignore[union-attr]
        _begin_pass(layer._modules[name + QUANTIZER], learning)
    quantizer = layer._modules.get(ACTIVATIONS["input"])
    if quantizer is None:
        return None
    return _through(quantizer, args, learning)  # type: ignore[arg-type]


def after_forward(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """What a layer returns is observed and quantized."""
    del args
    quantizer = layer._modules.get(ACTIVATIONS["output"])
    if quantizer is None:
        return output
    learning = layer.training and not _is_recomputed()
    if isinstance(output, tuple):
        head = _through(quantizer, output[:1], learning)  # type: ignore[arg-type]
        rest = output[1:]
        return type(output)(*head, *rest) if hasattr(output, "_fields") else (*head, *rest)
    return _through(quantizer, (output,), learning)[0]  # type: ignore[arg-type]


def _through(quantizer: FakeQuantize, values: tuple[Any, ...], learning: bool) -> tuple[Any, ...]:
    floating = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    looks = bool(floating) and (learning or quantizer.calibrating)
    # One that observes all of training and has no step to wait for begins with this pass. Not to ask whether it has
    # begun spares a compiler to compile the first pass for itself.
    begins = looks and quantizer.observes_on and quantizer.observing and not quantizer.spec.start_step
    if not begins:
        _begin_pass(quantizer, learning)
    if looks and quantizer.observing:
        quantizer.observe(*floating)
    if not begins and not quantizer.active and not many_ranks():  # where what it learns has to be heard of
        return values
    # One tensor given twice stays one: attention asks whether its query is its key.
    made: dict[int, Tensor] = {}
    for value in floating:
        if id(value) not in made:
            made[id(value)] = quantizer(value)
    return tuple(made.get(id(value), value) for value in values)


def _begin_pass(quantizer: Any, learning: bool) -> None:
    if learning and quantizer.counts_passes and quantizer.spec.start_step:
        quantizer.count_step()
    # A replica of DataParallel, and a model that averages another, are told by buffers alone that it has begun.
    if not quantizer.active:
        quantizer.see_whether_active()


def _is_recomputed() -> bool:
    """Whether this forward pass belongs to a backward pass: a checkpoint runs again what was observed already."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _hook(hooks: dict[int, Any], register: Any, function: Any) -> None:
    if function not in hooks.values():
        register(function)
