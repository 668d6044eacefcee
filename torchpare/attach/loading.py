"""Masks that a state holds and a model does not have yet: a run that is resumed has them from its checkpoint.

A pruner that waits for an epoch, for data, or for a first batch has no masks on a fresh model where the saved one had
some, and ``load_state_dict`` would not know where to put them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchpare.attach.layer import MASK, CompressedLayer, masks_of_layer
from torchpare.attach.plain import attach_masks
from torchpare.types import Masks

__all__ = ["masked_names", "masks_in", "open_masks", "take_masks_from_states"]


def masks_in(model: nn.Module, state: Mapping[str, Any], prefix: str = "") -> Masks:
    """The masks that a state of the model holds, by layer and parameter.

    Args:
        model: masked or not.
        state: what ``model.state_dict()`` gave, perhaps with more in it.
        prefix: of the model's own keys in it.
    """
    layers = dict(model.named_modules(remove_duplicate=False))
    masks: Masks = {}
    for key, value in state.items():
        if not key.startswith(prefix) or not key.endswith(MASK):
            continue
        path, _, name = key.removeprefix(prefix).removesuffix(MASK).rpartition(".")
        layer = layers.get(path)
        if layer is None or not isinstance(value, Tensor) or value.dtype != torch.bool:
            continue
        masked = layer.torchpare_masked if isinstance(layer, CompressedLayer) else ()
        parameters = dict(layer.named_parameters(recurse=False))
        if name in masked or (name in parameters and not hasattr(layer, name + MASK)):
            masks.setdefault(path, {})[name] = value
    return masks


def take_masks_from_states(model: nn.Module) -> RemovableHandle:
    """Have ``load_state_dict`` take over all masks that a state holds, also where the model has none so far.

    Args:
        model: may be part of a larger one that is loaded. Copies made from now on do the same.

    Returns:
        Its ``remove()`` ends it.
    """
    return model.register_load_state_dict_pre_hook(_take_masks)


def _take_masks(model: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """A function of a module, not a closure: a model that has it can be copied and pickled."""
    attach_masks(model, masks_in(model, state, prefix))


def open_masks(model: nn.Module, but: Mapping[str, Any]) -> None:
    """Let everything through that is masked, but for some parameters, whose masks stay.

    Args:
        model: changed in place.
        but: by layer name, the names of the parameters.
    """
    for path, layer in model.named_modules():
        if isinstance(layer, CompressedLayer):
            for name, mask in masks_of_layer(layer).items():
                if name not in but.get(path, ()):
                    mask.fill_(True)


def masked_names(model: nn.Module) -> dict[str, list[str]]:
    """The parameters that have a mask, by layer."""
    layers = ((path, layer) for path, layer in model.named_modules() if isinstance(layer, CompressedLayer))
    return {path: list(layer.torchpare_masked) for path, layer in layers if layer.torchpare_masked}
