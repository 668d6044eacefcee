"""Losses and distances that are one operator: taken over what stays, and by name where that changes them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.graph.nets import image, net, same_fate, shrinks, why_not
from torchpare.graph import analyse

LOSSES = {
    "mse_loss": functional.mse_loss,
    "smooth_l1_loss": functional.smooth_l1_loss,
    "huber_loss": functional.huber_loss,
    "soft_margin_loss": functional.soft_margin_loss,
    "binary_cross_entropy": lambda x, y, **more: functional.binary_cross_entropy(x.sigmoid(), y.sigmoid(), **more),
    "binary_cross_entropy_with_logits": lambda x, y, **more: functional.binary_cross_entropy_with_logits(
        x, y.sigmoid(), pos_weight=x.new_full((1,), 2.0), **more
    ),
}


def two_towers(loss, **more):
    return net(
        lambda m, x: m.head(m.a(x) + m.b(x)) + loss(m.a(x), m.b(x), **more),
        a=nn.Conv2d(3, 6, 1),
        b=nn.Conv2d(3, 6, 3, padding=1),
        head=nn.Conv2d(6, 2, 1),
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_between_features_is_taken_over_those_that_stay(name, reduction):
    model, x = two_towers(LOSSES[name], reduction=reduction), image()
    assert not analyse(model, x).unknown
    assert same_fate(model, x, "a", "b")
    report = shrinks(model, x, {"a": [0, 4], "b": [0, 4]}, expect={"a": (4, 3), "b": (4, 3), "head": (2, 4)})
    named = {change.kind for change in report.changes}
    assert (f"{name} over the pruned axis" in named) == (reduction == "mean")
    if reduction == "sum":  # of zeros that are compared with zeros, which is nothing in some losses only
        assert report.exact == (name in ("mse_loss", "smooth_l1_loss", "huber_loss"))


def test_a_loss_of_every_entry_is_exact():
    model = net(
        lambda m, x: m.head(functional.mse_loss(m.a(x), m.b(x), reduction="none")),
        a=nn.Conv2d(3, 6, 1),
        b=nn.Conv2d(3, 6, 1),
        head=nn.Conv2d(6, 2, 1),
    )
    dropped = {"a": [1, 2], "b": [1, 2]}
    assert shrinks(model, image(), dropped, expect={"a": (4, 3), "b": (4, 3), "head": (2, 4)}).exact


@pytest.mark.parametrize("prototypes", [5, 40], ids=["direct", "by products"])
@pytest.mark.parametrize("batched", [False, True])
def test_distances_lose_the_columns_that_both_sides_have(prototypes, batched):
    def run(m, x):
        features = m.a(x)
        return m.head(torch.cdist(features, m.table if not batched else m.table.expand(len(x), -1, -1)))

    model = net(run, a=nn.Linear(4, 6), head=nn.Linear(prototypes, 2))
    model.table = nn.Parameter(torch.randn(prototypes, 6, dtype=torch.float64))
    x = torch.randn((2, 3, 4) if batched else (3, 4), dtype=torch.float64)
    assert shrinks(model, x, {"a": [0, 5]}, expect={"a": (4, 4), "head": (2, prototypes)}).largest_difference <= 1e-10
    assert model.table.shape == (prototypes, 4)


def test_classes_that_a_loss_knows_by_number_stay():
    model = net(
        lambda m, x: (m.head(m.a(x)), functional.nll_loss(m.a(x), x.argmax(1))), a=nn.Linear(4, 6), head=nn.Linear(6, 2)
    )
    x = torch.randn(3, 4, dtype=torch.float64)
    assert not analyse(model, x).unknown
    assert "by number" in why_not(model, x, "a")
