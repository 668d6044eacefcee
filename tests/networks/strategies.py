"""Hypothesis strategies: random convolutional networks, and random masks for them.

A network is a `Recipe`, a short list of numbers, so that a failing example prints as something to paste into a test and
shrinks to the fewest blocks that still fail.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks.blocks import BLOCKS, End
from tests.support.vision import randomise
from torchpare.graph import PruningSpace
from torchpare.types import Masks

__all__ = ["BLOCK_BY_NAME", "MASKS", "Recipe", "masks_for", "recipes"]

SIZE = 16


class Chain(nn.Module):
    """A stem, blocks one after the other, an end."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        dice = random.Random(recipe.seed)
        width = dice.choice([4, 6, 8])
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks = []
        for name in recipe.blocks:
            # choose again where the numbers of channels and groups do not fit together
            for _ in range(100):
                try:
                    block = BLOCK_BY_NAME[name](width, dice.choice)
                except ValueError:
                    continue
                break
            else:
                continue
            blocks.append(block)
            width = block.width
        self.blocks = nn.Sequential(*blocks)
        self.eval()
        with torch.no_grad():
            size = self.blocks(self.stem(torch.zeros(1, 3, SIZE, SIZE))).shape[-1]
        self.end = End(width, size, dice.choice)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.blocks(self.stem(x)))


BLOCK_BY_NAME = {block.__name__: block for block in BLOCKS}


@dataclass(frozen=True)
class Recipe:
    """A network as data."""

    blocks: tuple[str, ...]
    seed: int

    def build(self) -> nn.Module:
        """The network, with random weights, statistics, scales and shifts; the same one each time."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return randomise(Chain(self), torch.Generator().manual_seed(self.seed)).eval()

    def input(self) -> Tensor:
        return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(self.seed + 1))


def recipes(max_blocks: int = 4) -> st.SearchStrategy[Recipe]:
    return st.builds(
        Recipe,
        st.lists(st.sampled_from(sorted(BLOCK_BY_NAME)), min_size=1, max_size=max_blocks).map(tuple),
        st.integers(0, 999),
    )


MASKS = ("layers", "groups", "aware", "convolutions", "scattered", "mixed")


def masks_for(space: PruningSpace, model: nn.Module, kind: str, seed: int) -> Masks:
    """Random masks.

    Args:
        kind: ``layers``: each layer drops channels of its own choice, so that those that share channels disagree;
            ``groups``: the same, completed over whole groups;
            ``aware``: classes of channels are dropped everywhere, completed over their groups;
            ``convolutions``: the same, but only the weights of the layers themselves are masked;
            ``scattered``: single weights;
            ``mixed``: some layers of each.
    """
    dice = np.random.default_rng(seed)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    transposed = {name for name, module in model.named_modules() if isinstance(module, nn.ConvTranspose2d)}
    dropped = set(dice.permutation(space.size)[: int(space.size * dice.uniform(0.2, 0.7))].tolist()) - {0}
    masks: Masks = {}
    for layer in space.producers:
        weight = parameters.get(f"{layer}.weight")
        if weight is None or dice.random() < 0.15:
            continue
        how = dice.choice(["layers", "convolutions", "scattered"]) if kind == "mixed" else kind
        if how == "scattered":
            masks[layer] = {"weight": torch.from_numpy(dice.random(tuple(weight.shape)) < 0.6)}
            continue
        classes = space.channels(layer).classes
        together = how in ("aware", "convolutions")
        keep = ~np.isin(classes, list(dropped)) if together else dice.random(len(classes)) < 0.6
        axis = 1 if layer in transposed else 0
        if len(keep) != weight.shape[axis]:  # a grouped transposed convolution: columns are shared by the groups
            continue
        keep[dice.integers(len(keep))] = True
        vector = torch.from_numpy(keep)
        shape = [1] * weight.dim()
        shape[axis] = -1
        masks[layer] = {"weight": vector.reshape(shape)}
        if how != "convolutions" and f"{layer}.bias" in parameters and parameters[f"{layer}.bias"] is not None:
            masks[layer]["bias"] = vector
    return space.group_masks(masks) if kind in ("groups", "aware") else masks
