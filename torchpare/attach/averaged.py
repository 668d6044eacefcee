"""Copies of a model whose weights are averages over training: they have the model's masks and grids, not old ones.

Averages walk over parameters and buffers of both models side by side. A mask that appears while the model trains would
lie against something else in the copy, so the copy gets it first.
"""

# ruff: noqa: SLF001 - buffers are put where nn.Module keeps them, in the same order

from __future__ import annotations

import torch
from torch import nn

from torchpare.attach.layer import MASK, CompressedLayer, attach_mask, masks_of_layer
from torchpare.attach.quantizer import FakeQuantize

__all__ = ["carry_over"]


@torch.no_grad()
def carry_over(source: nn.Module, copied: nn.Module) -> None:
    """Give a copy of a model the masks, ranges and counted steps that the model has by now; weights stay.

    Args:
        source: the model that trains.
        copied: of the same modules; its quantizers are the copies of the model's own.
    """
    layers = dict(copied.named_modules())
    for path, layer in source.named_modules():
        twin = layers.get(path)
        if isinstance(layer, CompressedLayer) and twin is not None:
            _carry_masks(layer, twin)
        elif isinstance(layer, FakeQuantize) and isinstance(twin, FakeQuantize):
            _carry_grid(layer, twin)


def _carry_masks(layer: CompressedLayer, twin: nn.Module) -> None:
    for name, mask in masks_of_layer(layer).items():
        known = twin._buffers.get(name + MASK)
        if known is None or known.shape != mask.shape:
            attach_mask(twin, name, mask)
        else:
            known.copy_(mask)
    for name in layer._buffers:
        if name in twin._buffers:
            twin._buffers[name] = twin._buffers.pop(name)


def _carry_grid(quantizer: FakeQuantize, twin: FakeQuantize) -> None:
    for name, own in quantizer._buffers.items():
        known = twin._buffers.get(name)
        if own is None or known is None:
            continue
        if known.shape != own.shape:
            twin._buffers[name] = own.clone().to(known.device)
        else:
            known.copy_(own)
    twin.follows, twin.counts_passes = quantizer.follows, quantizer.counts_passes
    twin.observing, twin.calibrating, twin.active = quantizer.observing, quantizer.calibrating, quantizer.active
