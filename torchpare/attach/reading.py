"""What is read under the name of a parameter that is masked or quantized; the only place where these meet it."""

# ruff: noqa: SLF001 - the dicts in which nn.Module keeps parameters and buffers are what this file is about

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.config.layers import output_layout, type_name
from torchpare.errors import MaskError
from torchpare.numerics.affine import settled
from torchpare.numerics.masking import masked
from torchpare.numerics.shards import in_pieces, is_whole_in_passes, whole

__all__ = [
    "ACTIVATIONS",
    "MASK",
    "QPARAMS",
    "QUANTIZER",
    "before_quantizer",
    "flat_weights",
    "in_use",
    "qparam_property",
    "recurrent_forward",
    "shadowing_property",
]  # fmt: skip

MASK = "_mask"
"""What follows a parameter's name in the name of its mask, one of the layer's buffers."""

QUANTIZER = "_quantizer"
"""What follows a parameter's name in the name of its quantizer, one of the layer's children."""

ACTIVATIONS = {"output": "output_quantizer", "input": "input_quantizer"}
"""The names of the children that quantize what a layer returns and what it is called with."""

_IN_USE = "torchpare_flat_weights"
"""Where the list of a recurrent layer's weights lies while it runs."""

QPARAMS = ("scale", "zero_point")


def before_quantizer(layer: nn.Module, name: str) -> Tensor:
    """What a parameter's grid is made for: the parameter under its mask, scaled as the folded one will be."""
    value, fold = _masked(layer, name), _fold(layer, name)
    return value * fold_factor(layer, fold) if fold is not None else value


def _masked(layer: nn.Module, name: str) -> Tensor:
    parameter = whole(_parameter(layer, name))
    mask = layer._buffers.get(name + MASK)
    return parameter if mask is None else masked(parameter, mask)


def _parameter(layer: nn.Module, name: str) -> Tensor:
    parameter = layer._parameters.get(name)
    # A DataParallel replica keeps its parameters as plain attributes.
    return layer.__dict__[name] if parameter is None else parameter


def in_use(layer: nn.Module, name: str) -> Tensor:
    """A parameter as the model uses it: ``quantizer(parameter * mask)``, of the two what there is.

    Where zero is no value of the grid, what is masked is made zero after it once more. Of a sharded layer it is the
    whole parameter: all processes have to ask together.
    """
    if name not in getattr(layer, "torchpare_shadowed", ()):
        return whole(_parameter(layer, name))
    value = _masked(layer, name)
    quantizer: Any = layer._modules.get(name + QUANTIZER)
    if quantizer is None:
        return value
    fold = _fold(layer, name)
    if fold is None or (quantizer.scales_along and output_layout(layer)[1] == 1):
        value = quantizer(value)
    else:
        factor = fold_factor(layer, fold)
        # Norms are often kept in float32 beside weights of half precision, to which the product comes back.
        value = (quantizer(value * factor) / factor).to(value.dtype)
    mask = None if quantizer.keeps_zero else layer._buffers.get(name + MASK)
    return value if mask is None else masked(value, mask)


def _fold(layer: nn.Module, name: str) -> nn.Module | None:
    fold: Any = layer.torchpare_fold
    return fold[0] if fold and name == "weight" else None


def fold_factor(layer: nn.Module, norm: nn.Module) -> Tensor:
    """What a batch norm, as it evaluates, multiplies each output channel by; 1 for a channel that it makes zero."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    assert norm.running_var is not None
    with torch.no_grad():
        factor = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            factor = factor * whole(norm.weight)
        factor = settled(torch.where(factor == 0, 1.0, factor))
        axis, groups = output_layout(layer)
        weight = layer._parameters["weight"]
        assert weight is not None
        shape = [-1 if at == axis else 1 for at in range(weight.dim())]
        if groups > 1:  # of a transposed convolution: one column holds a channel of every group
            inputs = weight.shape[0] // groups
            return factor.reshape(groups, 1, -1).expand(-1, inputs, -1).reshape(weight.shape[0], -1, *shape[2:])
        return factor.reshape(shape)


def shadowing_property(name: str) -> property:
    """``layer.weight`` and the like: the parameter as the model uses it.

    Between two passes of a layer that ``fully_shard`` was called on, it is the sharded parameter itself: the whole one
    is there during the pass alone, and FSDP finds its parameters by reading them.
    """

    def read(layer: Any) -> Tensor:
        parameter = _parameter(layer, name)
        if in_pieces(parameter):
            _check_fully_sharded(layer, name, parameter)
            return parameter
        value = in_use(layer, name)
        watch = layer.torchpare_gradient_watch
        if watch is not None and name == "weight" and value.requires_grad:
            value.register_hook(watch)
        return value

    def write_replica(layer: nn.Module, value: Tensor) -> None:
        layer.__dict__[name] = value

    return property(read, write_replica, doc=f"``{name}`` as the model uses it: masked and quantized.")


def _check_fully_sharded(layer: nn.Module, name: str, parameter: Any) -> None:
    """See that the parameter will be whole when the layer computes; FSDP reads it before the first pass.

    Raises:
        MaskError: it is in pieces for another reason.
    """
    if not is_whole_in_passes(layer) or any(not placement.is_replicate() for placement in parameter.placements[:-1]):
        raise MaskError(
            f"{type_name(layer)}.{name} lies in pieces ({', '.join(map(str, parameter.placements))}) that stay apart "
            "while the layer computes, as in tensor parallelism: masks and quantizers work with DDP and fully_shard, "
            "where weights are whole then"
        )


def qparam_property(at: int, name: str) -> property:
    """``layer.scale`` and ``layer.zero_point``: those of the weight, or else of the output or the input."""

    def read(layer: Any) -> Any:
        own = (layer.__dict__, layer._parameters, layer._buffers, layer._modules)
        for place in own:  # what the layer's own class calls so comes first
            if name in place:
                return place[name]
        for parameter in layer.torchpare_quantized:
            return layer._modules[parameter + QUANTIZER].qparams(before_quantizer(layer, parameter))[at]  # type: ignore[union-attr]
        for child in ACTIVATIONS.values():
            if child in layer._modules:
                return layer._modules[child].qparams(torch.empty(0))[at]  # type: ignore[union-attr]
        raise AttributeError(f"{type(layer).__name__} has no {name}: it is not quantized")

    def write(layer: nn.Module, value: Any) -> None:
        layer.__dict__[name] = value

    return property(read, write)


def flat_weights() -> property:
    """The list of weights that a recurrent layer makes once, made anew at each reading; writing has no effect."""
    return property(lambda layer: layer.__dict__.get(_IN_USE) or _made_anew(layer), lambda *_: None)


def recurrent_forward(plain: type[nn.Module]) -> Callable[..., Any]:
    """The ``forward`` of a recurrent layer, which reads its list of weights ten times, with a list made once."""

    @functools.wraps(plain.forward)
    def forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        layer.__dict__[_IN_USE] = _made_anew(layer)
        try:
            return plain.forward(layer, *args, **kwargs)
        finally:
            del layer.__dict__[_IN_USE]

    return forward


def _made_anew(layer: Any) -> list[Tensor]:
    return [getattr(layer, name) for name in layer._flat_weights_names]
