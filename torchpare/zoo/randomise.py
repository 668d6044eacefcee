"""Random values everywhere in a network, for a proof that means something.

A fresh network proves little: its norms have scale 1, shift 0, mean 0 and variance 1, and some heads, layer scales and
tokens start at zero, so that many a wrong shrink computes the right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["randomise", "settle_norms"]

# What multiplies a channel: of norms, of scaled standardised convolutions, of weight normalisation (both kinds).
_SCALES = {"weight", "gain", "weight_g", "original0"}


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Gives every parameter and running statistic a random value of healthy size, in place; returns the model.

    Weights keep the variance of their signal; a norm's scale and variance lie in (0.5, 1.5); its shift and mean, and
    every other vector (biases, layer scales, temperatures), in (-0.5, 0.5). Other buffers are tables that the model
    made for itself, and stay.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.copy_(_random_parameter(parameter, name, generator))
            elif parameter.is_complex():
                real = torch.view_as_real(parameter)
                real.copy_(_random_parameter(real, name, generator))
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_var":
                buffer.copy_(_uniform(buffer, 0.5, 1.5, generator))
            elif name == "running_mean":
                buffer.copy_(_uniform(buffer, -0.5, 0.5, generator))
    return model


@torch.no_grad()
def settle_norms(model: nn.Module, run: Callable[[], Any]) -> nn.Module:
    """Moves the statistics of batch norms to what they meet, by the random amounts that they hold; returns the model.

    With statistics that have nothing to do with the data a deep network's signal grows by a factor in each block, until
    gates and probabilities are all 0 or 1 and hide what feeds them.

    Args:
        model: in evaluation mode, after `randomise`.
        run: runs it on some data.
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                hook = module.register_forward_pre_hook(_settle)
                hooks.callback(hook.remove)
        run()
    return model


def _settle(norm: _BatchNorm, inputs: tuple[Any, ...]) -> None:
    x = inputs[0].double()
    axes = [axis for axis in range(x.ndim) if axis != 1]
    mean, variance = x.mean(axes), x.var(axes, correction=0)
    # A channel that hardly varies, such as one of a single pixel, is taken to vary like the others.
    variance = variance.clamp(min=0.1 * float(x.square().mean()) + 1e-6)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(norm.running_mean * variance.sqrt() + mean)
    norm.running_var.copy_(norm.running_var * variance)


def _random_parameter(parameter: Tensor, name: str, generator: torch.Generator) -> Tensor:
    is_matrix = parameter.ndim > 1 and "weight" in name and name not in _SCALES - {"weight"}
    if not is_matrix and parameter.numel() in (0, 1, *parameter.shape):  # a vector, perhaps shaped to be broadcast
        low, high = (0.5, 1.5) if name in _SCALES else (-0.5, 0.5)
        return _uniform(parameter, low, high, generator)
    # In tables of positions, tokens and stacks of experts each row is a vector of its own.
    fan_in = parameter[0].numel() if is_matrix else parameter.shape[-1]
    return _uniform(parameter, -1.0, 1.0, generator) * (6.0 / fan_in) ** 0.5


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=generator, dtype=torch.float64) * (high - low) + low).to(like)
