"""Which batch norms a runtime will fold into the layers before them: those that alone read what the layer returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torchpare.config import Target
from torchpare.config.layers import FILTERED
from torchpare.errors import CaptureError
from torchpare.graph.capture import call_arguments
from torchpare.quantization.places import evaluating

__all__ = ["folds_of"]


def folds_of(model: nn.Module, targets: Mapping[str, Target], dummy_input: Any) -> dict[str, nn.Module]:
    """The batch norm directly after each target, found by running the model: what one returned, the other was given.

    Where something else reads it too, such as an addition, or an activation function in place, the norm cannot be
    folded: what would be read there is gone then.

    Args:
        model: run once in evaluation mode, and not changed.
        targets: by name, the layers after which a norm is looked for.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Raises:
        CaptureError: the model does not run on ``dummy_input``.
    """
    watch = _Watch({id(target.module): name for name, target in targets.items()})
    handles: list[Any] = []
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(watch.enter))
        handles.append(module.register_forward_hook(watch.leave))
    args, kwargs = call_arguments(dummy_input)
    try:
        with evaluating(model), torch.no_grad(), watch:
            returned = model(*args, **kwargs)
    except Exception as error:
        raise CaptureError(f"the model does not run on dummy_input: {type(error).__name__}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    watch.read(returned)
    return {
        name: norms[0]
        for name, norms in watch.norms.items()
        if name not in watch.read_elsewhere and _can_fold(targets[name].module, norms, watch.calls)
    }


class _Watch(TorchDispatchMode):
    """Sees who reads what the layers return: norms, or any other operator.

    Args:
        names: of the layers, by their identity.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: dict[int, int] = {}
        """How often each module was called, by its identity."""
        self.norms: dict[str, list[Any]] = {}
        """The norms that were given what a layer returned, by the layer's name."""
        self.read_elsewhere: set[str] = set()
        """The layers whose output others read too."""
        self._made: dict[int, str] = {}
        self._kept: list[Tensor] = []  # while they live, no other tensor gets their identity
        self._layers: dict[str, nn.Module] = {}
        self._within: Any = None

    def enter(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        """A norm is called."""
        del norm
        self._within = args[0] if args else None

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A module returns."""
        self.calls[id(module)] = self.calls.get(id(module), 0) + 1
        if isinstance(module, _BatchNorm):
            self._within = None
            name = self._made.get(id(args[0])) if args else None
            if name is not None and _has_channels_second(args[0], self._layers[name]):
                self.norms.setdefault(name, []).append(module)
        if id(module) in self.names and isinstance(output, Tensor):
            self._made[id(output)] = self.names[id(module)]
            self._layers[self.names[id(module)]] = module
            self._kept.append(output)

    def read(self, values: Any) -> None:
        """Something other than a norm reads these."""
        for value in pytree.tree_leaves(values):
            if value is not self._within and id(value) in self._made:
                self.read_elsewhere.add(self._made[id(value)])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operator is called."""
        del types
        self.read((args, kwargs))
        return func(*args, **(kwargs or {}))


def _has_channels_second(output: Tensor, layer: nn.Module) -> bool:
    """Whether a layer's channels lie on axis 1 of what it returned, where a norm looks for them."""
    return output.dim() == 2 if isinstance(layer, nn.Linear) else output.dim() > 2


def _can_fold(layer: nn.Module, norms: list[Any], calls: Mapping[int, int]) -> bool:
    once = len(norms) == 1 and calls[id(layer)] == 1 and calls[id(norms[0])] == 1
    return once and isinstance(layer, FILTERED) and norms[0].running_var is not None
