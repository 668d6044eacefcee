"""Masks on a whole model: put them on, read them, take them off, and see the model as if nothing were attached."""

# ruff: noqa: SLF001 - tied parameters are found in the dicts in which nn.Module keeps them

from __future__ import annotations

from collections import defaultdict
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from torchpare.attach.layer import CompressedLayer, attach_mask, check_mask, detach_layer, masks_of_layer, values_in_use
from torchpare.attach.quantizer import FakeQuantize
from torchpare.errors import MaskError
from torchpare.numerics.shards import reshard
from torchpare.types import Mask, Masks

__all__ = ["attach_masks", "detach", "is_attached", "masks_of", "plain_state_dict"]


def attach_masks(model: nn.Module, masks: Masks) -> None:
    """Mask several layers of a model; masks already attached there are replaced, others stay.

    A parameter that several layers share (tied weights) is masked in all of them, because masked in one place only it
    would be two different weights: where only one of them was named the others get the same mask, and where several
    were named what all of them keep stays.

    Args:
        model: changed in place: the layers keep their places, names and parameters.
        masks: by qualified layer name (any of its names, for a shared layer), then by parameter name.

    Raises:
        MaskError: a layer or parameter does not exist (with the nearest names), or a mask does not fit. The model is
            unchanged.
    """
    layers = dict(model.named_modules(remove_duplicate=False))
    holders: dict[int, list[tuple[str, nn.Module, str]]] = defaultdict(list)
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                holders[id(parameter)].append((name, module, key))
    wanted: dict[int, Mask] = {}
    for layer, own in masks.items():
        if layer not in layers:
            near = get_close_matches(layer, layers, n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise MaskError(f"masks[{layer!r}]: the model has no layer of this name{hint}")
        for key, mask in own.items():
            check_mask(layers[layer], key, mask, layer)
            identity = id(layers[layer]._parameters[key])
            wanted[identity] = _both(wanted[identity], mask) if identity in wanted else mask
    for identity, mask in wanted.items():
        for name, module, key in holders[identity]:
            check_mask(module, key, mask, name)
    for identity, mask in wanted.items():
        for _, module, key in holders[identity]:
            attach_mask(module, key, mask)


def masks_of(model: nn.Module) -> Masks:
    """Copies of the masks attached anywhere in a model, by qualified layer name and parameter name, in module order."""
    return {
        name: {key: mask.clone() for key, mask in masks_of_layer(module).items()}
        for name, module in model.named_modules()
        if isinstance(module, CompressedLayer) and module.torchpare_masked
    }


def is_attached(model: nn.Module) -> bool:
    """Whether any layer of the model is masked."""
    return any(isinstance(module, CompressedLayer) and module.torchpare_masked for module in model.modules())


def detach(model: nn.Module, bake: bool) -> None:
    """Take all masks off; the layers get their plain classes back, with the same ``Parameter`` objects.

    Quantizers stay; see `torchpare.attach.quantized.detach_quantizers`.

    Args:
        model: changed in place.
        bake: True writes the zeros into the parameters, so that the model computes what it computed masked; False
            leaves the dense values, so that it computes what it would without masks.
    """
    if bake:
        reshard(model)
    for module in list(model.modules()):
        if isinstance(module, CompressedLayer):
            detach_layer(module, bake)


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the model as if nothing were attached: original keys, values as the model uses them.

    Masked values are exactly zero, quantized weights lie on their grids (as floats), and there are no masks and no
    quantizers. Those tensors are new; the others are the model's own, detached, as in ``state_dict()``.
    """
    # First, since saving writes today's scales of the weights down. By identity, not by key: state-dict hooks may
    # rename keys, and shared layers appear under several.
    state = model.state_dict(keep_vars=True)
    used: dict[int, Tensor] = {}
    ours: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, CompressedLayer):
                ours.update(id(mask) for mask in masks_of_layer(module).values())
                used.update((id(module._parameters[key]), value) for key, value in values_in_use(module).items())
            elif isinstance(module, FakeQuantize):
                ours.update(id(tensor) for tensor in (*module.parameters(), *module.buffers()))
    for key, value in list(state.items()):
        if id(value) in ours:
            del state[key]
        elif id(value) in used:
            state[key] = used[id(value)]
        elif isinstance(value, Tensor):
            state[key] = value.detach()
    return state


def _both(one: Mask, other: Mask) -> Mask:
    return torch.logical_and(one, other.to(one.device))
