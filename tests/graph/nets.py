"""Tiny nets written as functions of named layers, and the questions that rule tests ask about them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tests.networks.oracles import exact_output, masked_by_hand, relative, retrace
from tests.support.vision import randomise
from torchpare.graph import analyse
from torchpare.speedup import ModelSpeedup

__all__ = ["Net", "free", "image", "keep_without", "net", "same_fate", "shrinks", "why_not"]


class Net(nn.Module):
    """Layers by name, and what to do with them."""

    def __init__(self, run, layers, attributes) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        for name, value in attributes.items():
            setattr(self, name, value)
        self.run = run

    def forward(self, *args: Tensor):
        return self.run(self, *args)


def net(run, *, attributes=None, **layers) -> Net:
    """A net in evaluation mode and float64, with random values everywhere."""
    return randomise(Net(run, layers, attributes or {}), torch.Generator().manual_seed(1)).double().eval()


def image(channels=3, size=6, batch=2) -> Tensor:
    shape = (batch, channels, size, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def free(model, x, layer) -> int:
    """How many channels of a layer could go."""
    return int((analyse(model, x).channels(layer).classes != 0).sum())


def why_not(model, x, layer) -> str:
    return analyse(model, x).frozen(layer) or ""


def same_fate(model, x, *layers) -> bool:
    """Whether channel i of each layer lives and dies with channel i of the others."""
    space = analyse(model, x)
    first, *others = [space.channels(layer).classes.tolist() for layer in layers]
    return 0 not in first and all(other == first for other in others)


def keep_without(count: int, *dropped: int) -> Tensor:
    keep = torch.ones(count, dtype=torch.bool)
    keep[list(dropped)] = False
    return keep


def shrinks(model, x, dropped, *, expect):
    """Drop filters, and hold the result against the model masked by hand and against a second recording.

    Args:
        dropped: filters by layer; of a transposed convolution output channels.
        expect: widths of layers after, as ``{"conv": (out, in)}`` in the order of the weight's axes.
    """
    space = analyse(model, x)
    masks = {}
    for layer, indices in dropped.items():
        module = model.get_submodule(layer)
        axis = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd | nn.Embedding) else 0
        if axis == 1 and module.weight.shape[1] == 1:  # depthwise: the channel is the row
            axis = 0
        keep = keep_without(module.weight.shape[axis], *indices)
        masks[layer] = {"weight": keep.view([-1 if a == axis else 1 for a in range(module.weight.dim())])}
        if getattr(module, "bias", None) is not None and len(module.bias) == len(keep):
            masks[layer]["bias"] = keep
    masks = space.group_masks(masks)
    dense = copy.deepcopy(model)
    speedup = ModelSpeedup(model, x, masks)
    removal = speedup.plan().removal
    report = speedup.speedup_model()
    found = {layer: tuple(model.get_submodule(layer).weight.shape[:2]) for layer in expect}
    assert found == expect, f"{found}, kept: {report.frozen}"
    assert report.largest_difference <= 1e-10
    if report.exact:
        assert relative(exact_output(masked_by_hand(dense, masks), x), exact_output(model, x)) <= 1e-10
        assert report.output_change > 1e-6, "the masks change nothing: this proves nothing"
    retrace(model, x, removal)
    return report
