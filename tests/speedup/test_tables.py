"""Tensors that a module keeps as plain attributes lose channels like buffers, through every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchpare
from torchpare import plan
from torchpare.errors import ShrinkError
from torchpare.speedup.verify import bisimulate, retrace

HALF = [{"sparsity": 0.5, "structures": ["all"]}]


class Positions(nn.Module):
    """Adds a table of positions, one of two modules that hold it."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, C) to the same."""
        return x + self.table


class Net(nn.Module):
    """A table and its twin, places that are numbers, and an output kept from the last call."""

    def __init__(self, *, stubborn: bool = False) -> None:
        super().__init__()
        table = torch.arange(72.0).view(6, 12).sin()
        self.enter, self.mix, self.head = nn.Linear(7, 12), nn.Linear(12, 12), nn.Linear(12, 5)
        self.first, self.second = Positions(table), Positions(table)
        self.order = torch.arange(12)
        self.seen = torch.zeros(2, 6, 12)
        self.stubborn = stubborn

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, 7) to (B, 6, 5)."""
        x = self.first(self.enter(x))
        self.seen = x.detach()
        if self.stubborn and "in_features=12," not in repr(self.head):
            raise ValueError("twelve, please")
        return self.head(self.second(self.mix(x).relu()))


def net(*, stubborn: bool = False, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(stubborn=stubborn).eval()


def test_a_table_follows_its_channels_wherever_it_is_held():
    model, x = net(), torch.randn(2, 6, 7)
    whole = model.first.table
    planned = plan(model, HALF, x)
    report = planned.apply()
    assert report.largest_difference <= 1e-10
    assert model.first.table.shape == (6, 6)
    assert model.first.table is model.second.table
    kept = [index for index in range(12) if any(torch.equal(whole[:, index], column) for column in model.first.table.T)]
    assert len(kept) == 6
    assert model.order.shape == (12,)
    assert "first.table" not in model.state_dict()


def test_a_small_table_is_saved_and_loaded(tmp_path):
    model, x = net(), torch.randn(2, 6, 7)
    plan(model, HALF, x).apply()
    torchpare.save(model, tmp_path / "small.safetensors")
    fresh = torchpare.load(net(seed=1), tmp_path / "small.safetensors")
    assert torch.equal(fresh.first.table, model.first.table)
    assert torch.equal(fresh(x), model(x))


def test_a_table_is_given_back_when_the_model_cannot_be_made_smaller():
    model, x = net(stubborn=True), torch.randn(2, 6, 7)
    whole = model.first.table
    with pytest.raises(ShrinkError, match="twelve, please"):
        plan(model, HALF, x).apply()
    assert model.first.table is whole


def test_operator_by_operator_a_table_is_what_was_left_of_it():
    model, x = net(), torch.randn(2, 6, 7)
    dense = net()
    planned = plan(model, HALF, x)
    planned.apply()
    retrace(model, x, planned.removal)
    found = bisimulate(dense, model, x, planned.removal)
    assert not found.incomparable
    assert not found.mismatches


def test_a_model_written_as_a_graph_has_its_table():
    model, x = net(), torch.randn(2, 6, 7)
    traced = plan(model, HALF, x, literals="trace").graph()
    plan(model, HALF, x).apply()
    assert torch.allclose(traced(x), model(x), atol=1e-6)
