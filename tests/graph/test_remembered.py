"""Functions under lru_cache: each layer's sizes keep their own origin, and nothing recorded stays remembered."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor, nn

from torchpare import plan


@lru_cache(maxsize=16)
def split_shape(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
    """The shape of tokens after their width was split into heads."""
    return (*shape[:-1], heads, shape[-1] // heads)


class Heads(nn.Module):
    """Normalises each head of a projection, its shape worked out by the function that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.inner = nn.Linear(12, 32)
        self.outer = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 12) to (B, L, 12)."""
        heads = self.inner(x)
        heads = heads.view(split_shape(heads.shape, self.heads))
        return self.outer((heads - heads.amax(2, keepdim=True)).flatten(-2))


class Table(nn.Module):
    """A method that remembers a table as wide as it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(7, 32)
        self.outer = nn.Linear(32, 5)

    @cache  # noqa: B019 - as people write it
    def ones(self, width: int) -> Tensor:
        """A row of ones."""
        return torch.ones(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        hidden = self.inner(x).relu()
        return self.outer(hidden * self.ones(hidden.shape[1]).to(hidden))


def test_layers_that_ask_the_same_question_are_pruned_apart() -> None:
    model = nn.Sequential(Heads(), Heads())
    tokens = torch.randn(2, 3, 12)
    model(tokens)  # an answer in plain numbers is remembered already
    planned = plan(model, [{"sparsity": 0.5, "structures": ["all"], "op_names": ["0.inner", "0.outer"]}], tokens)
    assert planned.apply().largest_difference < 1e-10
    assert model[0].inner.out_features < 32  # type: ignore[union-attr]
    assert model[1].inner.out_features == 32  # type: ignore[union-attr]
    assert model(tokens).shape == (2, 3, 12)


def test_what_was_recorded_is_not_remembered() -> None:
    split_shape.cache_clear()
    model = nn.Sequential(Heads())
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], torch.randn(2, 3, 12))
    assert split_shape.cache_info().currsize == 0


def test_a_table_that_a_method_remembers_is_worked_out_anew() -> None:
    model, x = Table(), torch.randn(3, 7)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference is not None
    assert model.inner.out_features == 16
    assert model(x).shape == (3, 5)
