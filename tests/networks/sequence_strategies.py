"""Hypothesis strategies: random networks on sequences, and random wishes of what to remove from them.

As in `strategies`, a network is a short list of numbers: a failing example can be pasted into a test.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks.sequence_blocks import SEQUENCE_BLOCKS
from tests.support.vision import randomise
from torchpare.graph import analyse
from torchpare.graph.structures import groups_of

__all__ = ["SEQUENCE_BLOCK_BY_NAME", "SequenceRecipe", "Wish", "sequence_recipes", "wishes"]

SEQUENCE_BLOCK_BY_NAME = {block.__name__: block for block in SEQUENCE_BLOCKS}
LENGTH, WORDS, FEATURES = 5, 11, 3


class Sequential(nn.Module):
    """A stem, blocks one after the other, an end."""

    def __init__(self, recipe: SequenceRecipe) -> None:
        super().__init__()
        dice = random.Random(recipe.seed)
        width = first = dice.choice([4, 6, 8])
        self.tokens = dice.choice([True, False])
        self.stem = nn.Embedding(WORDS, width) if self.tokens else nn.Linear(FEATURES, width)
        self.token = nn.Parameter(torch.randn(1, 1, width)) if dice.choice([True, False, False]) else None
        blocks = []
        for name in recipe.blocks:
            blocks.append(SEQUENCE_BLOCK_BY_NAME[name](width, dice.choice))
            width = blocks[-1].width
        self.blocks = nn.Sequential(*blocks)
        self.how = dice.choice(["each", "mean", "first", "last", "max", "tied"])
        if self.how == "tied" and not (self.tokens and width == first):
            self.how = "each"
        self.end = nn.Linear(width, WORDS if self.how == "tied" else 3)
        if self.how == "tied":
            self.end.weight = self.stem.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.blocks(x)
        if self.how == "mean":
            x = x.mean(1)
        elif self.how == "max":
            x = x.amax(dim=1)
        elif self.how in ("first", "last"):
            x = x[:, 0 if self.how == "first" else -1]
        return self.end(x)


@dataclass(frozen=True)
class SequenceRecipe:
    """A network as data."""

    blocks: tuple[str, ...]
    seed: int

    def build(self) -> Sequential:
        """The network in float64, with random weights, scales and shifts; the same one each time."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return randomise(Sequential(self), torch.Generator().manual_seed(self.seed)).double().eval()

    def input(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1)
        if self.build().tokens:
            return torch.randint(WORDS, (2, LENGTH), generator=generator)
        return torch.randn(2, LENGTH, FEATURES, generator=generator, dtype=torch.float64)


def sequence_recipes(max_blocks: int = 4) -> st.SearchStrategy[SequenceRecipe]:
    return st.builds(
        SequenceRecipe,
        st.lists(st.sampled_from(sorted(SEQUENCE_BLOCK_BY_NAME)), min_size=1, max_size=max_blocks).map(tuple),
        st.integers(0, 999),
    )


@dataclass(frozen=True)
class Wish:
    """What to remove, as data."""

    sparsity: float
    round_to: int | None
    seed: int

    def entries(self, model: nn.Module, x: Any) -> list[dict[str, Any]] | None:
        """A ``config_list`` that names some of the structures that the model has; None where it has none."""
        kinds = sorted({group.kind for group in groups_of(analyse(model, x))})
        if not kinds:
            return None
        dice = random.Random(self.seed)
        chosen = dice.choice([["all"], dice.sample(kinds, dice.randint(1, len(kinds)))])
        entry: dict[str, Any] = {"sparsity": self.sparsity, "structures": chosen}
        return [entry if self.round_to is None else {**entry, "round_to": self.round_to}]


def wishes() -> st.SearchStrategy[Wish]:
    return st.builds(Wish, st.sampled_from([0.25, 0.5, 0.75]), st.sampled_from([None, None, 2, 4]), st.integers(0, 999))
