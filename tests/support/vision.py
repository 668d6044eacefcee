"""torchvision's models, also where its compiled operators do not fit the installed torch; and honest random weights.

`torchvision_models()` imports `torchvision.models`. A torchvision whose compiled part does not load fails to import,
since it registers fake kernels for two operators that then do not exist; declaring these is enough for its classifiers.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn

__all__ = ["randomise", "torchvision_models"]

_MISSING = ("nms", "qnms")
_KEPT: list[torch.library.Library] = []  # a Library that is collected takes its operators with it


@cache
def torchvision_models() -> ModuleType:
    """`torchvision.models`, importable even where torchvision's compiled operators are missing."""
    try:
        import torchvision.models
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in _MISSING:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision.models
    return torchvision.models


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Gives every parameter and running statistic a random value of healthy size, in place.

    A fresh network proves little: its norms have scale 1, shift 0, mean 0 and variance 1, and some heads start at
    zero, so many a wrong shrink computes the right answer. Weights keep the variance of their signal; a norm's scale
    and variance lie in (0.5, 1.5), its shift and mean in (-0.5, 0.5).
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.copy_(_random_parameter(parameter, name, generator))
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_var":
                buffer.copy_(_uniform(buffer, 0.5, 1.5, generator))
            elif name == "running_mean":
                buffer.copy_(_uniform(buffer, -0.5, 0.5, generator))
    return model


def _random_parameter(parameter: Tensor, name: str, generator: torch.Generator) -> Tensor:
    if parameter.ndim >= 2:
        fan_in = max(1, parameter[0].numel())
        return _uniform(parameter, -1.0, 1.0, generator) * (6.0 / fan_in) ** 0.5
    if name == "weight":
        return _uniform(parameter, 0.5, 1.5, generator)
    return _uniform(parameter, -0.5, 0.5, generator)


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=generator, dtype=torch.float64) * (high - low) + low).to(like)
