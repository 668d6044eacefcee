"""Masks as they are given (a file, a dict, what a model carries), and the tutorial's call that writes them as zeros."""

# ruff: noqa: SLF001 - parameters are written where nn.Module keeps them

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torchpare.files.masks import fit_masks, load_masks
from torchpare.types import Mask, Masks

__all__ = [
    "MasksOrFile",
    "apply_compression_results",
    "covers",
    "flatten_masks",
    "masked",
    "merge_masks",
    "read_masks",
]

MasksOrFile = Mapping[str, Mapping[str, Tensor | None]] | str | os.PathLike[str]


def apply_compression_results(
    model: nn.Module, masks_file: MasksOrFile, map_location: torch.device | str | None = None
) -> None:
    """Write zeros into the masked entries of a model's parameters, in place. Shapes stay: `ModelSpeedup` changes them.

    Args:
        model: the plain model, or one that still carries masks.
        masks_file: a mask file, or masks by layer and parameter name.
        map_location: where to load the masks, as in ``torch.load``.

    Raises:
        MaskFileError: if the file is not a mask file.
        MaskError: if the masks do not fit the model, which is then unchanged.
    """
    masks = read_masks(model, masks_file, map_location)
    modules = dict(model.named_modules(remove_duplicate=False))
    with torch.no_grad():
        for layer, parameters in masks.items():
            for name, mask in parameters.items():
                parameter = modules[layer]._parameters[name]
                if parameter is not None:
                    parameter.masked_fill_(~mask.to(parameter.device), 0)


def read_masks(model: nn.Module, masks: MasksOrFile, map_location: torch.device | str | None) -> Masks:
    """Masks from a file or a dict, checked against the model.

    Raises:
        MaskFileError: if the file is not a mask file.
        MaskError: if the masks do not fit the model.
    """
    if isinstance(masks, (str, os.PathLike)):
        torch.device(map_location or "cpu")  # a misspelt device is told as one; masks go where their parameters are
        masks = load_masks(masks, "cpu")
    return fit_masks(masks, model)


def merge_masks(left: Masks, right: Masks) -> Masks:
    """What both keep; what only one of them masks is masked."""
    merged: Masks = {layer: dict(parameters) for layer, parameters in left.items()}
    for layer, parameters in right.items():
        own = merged.setdefault(layer, {})
        for name, mask in parameters.items():
            own[name] = own[name] & mask.to(own[name].device) if name in own else mask
    return merged


def flatten_masks(masks: Masks) -> dict[str, Mask]:
    """Masks by qualified parameter name."""
    return {
        f"{layer}.{name}" if layer else name: mask
        for layer, parameters in masks.items()
        for name, mask in parameters.items()
    }


def masked(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors times their masks, where they have one."""
    return {
        name: tensor * masks[name].to(tensor.device) if name in masks else tensor for name, tensor in tensors.items()
    }


def covers(given: Mapping[str, Tensor], group: Mapping[str, Tensor]) -> bool:
    """Whether the given masks already are the group's."""
    return given.keys() >= group.keys() and all(
        bool((given[name] == group[name].to(given[name].device)).all()) for name in group
    )
