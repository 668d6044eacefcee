"""From a recipe's words to an optimizer over a model's parameters."""

from __future__ import annotations

import torch
from torch import nn

from torchpare.errors import ConfigError
from torchpare.recipe.named import found
from torchpare.recipe.settings import Optimizer

__all__ = ["make_optimizer"]


def make_optimizer(said: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer over a model's parameters.

    Raises:
        ConfigError: there is no such class, or it does not take these arguments.
    """
    cls = found(said.name) if ":" in said.name else getattr(torch.optim, said.name, None)
    if not isinstance(cls, type) or not issubclass(cls, torch.optim.Optimizer):
        known = [name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)]
        raise ConfigError(f"there is no optimizer {said.name!r}; torch.optim has {', '.join(known)}, and one of your "
                          "own is named as package.module:Class")  # fmt: skip
    try:
        return cls([parameter for parameter in model.parameters() if parameter.requires_grad], **said.arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the optimizer {said.name} does not take {said.arguments}: {error}") from error
