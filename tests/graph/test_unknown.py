"""What has no rule is frozen and named; the rest of the model is pruned all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.graph.nets import free, image, keep_without, net, why_not
from torchpare.graph import analyse
from torchpare.speedup import ModelSpeedup

UNKNOWN = {
    "aten.linalg_matrix_exp": torch.linalg.matrix_exp,
    "aten.linalg_qr": lambda y: torch.linalg.qr(y).Q,
    "torchpare_test.negate": lambda y: torch.ops.torchpare_test.negate(y),  # noqa: PLW0108 - not there yet
}


@pytest.fixture(scope="module", autouse=True)
def _custom_operator():
    with torch.library._scoped_library("torchpare_test", "DEF") as library:
        library.define("negate(Tensor x) -> Tensor")
        library.impl("negate", torch.neg, "CompositeExplicitAutograd")
        yield


@pytest.mark.parametrize("name", UNKNOWN)
def test_channels_through_an_unknown_operator_stay_and_it_is_named(name):
    run = UNKNOWN[name]
    model = net(
        lambda m, x: m.c(run(m.b(torch.relu(m.a(x))))), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 4, 1), c=nn.Conv2d(4, 2, 1)
    )
    x = image()
    assert (free(model, x, "a"), free(model, x, "b")) == (5, 0)
    assert name in why_not(model, x, "b")
    keep = keep_without(5, 1), keep_without(4, 2)
    masks = {layer: {"weight": k.view(-1, 1, 1, 1), "bias": k} for layer, k in zip("ab", keep, strict=True)}
    report = ModelSpeedup(model, x, masks).speedup_model()
    assert name in report.unknown
    assert "test_unknown.py" in report.unknown[name]
    assert name in str(report)
    assert report.largest_difference <= 1e-10
    assert (model.a.out_channels, model.b.out_channels) == (4, 4)
    assert any(item.layers == ("b",) and name in item.why for item in report.restored)


def test_everything_the_operator_touches_stays():
    model = net(
        lambda m, x: m.c(x) * torch.dist(m.a(x), m.b(x)),
        a=nn.Conv2d(3, 3, 1),
        b=nn.Conv2d(3, 3, 1),
        c=nn.Conv2d(3, 2, 1),
    )
    space = analyse(model, image())
    assert space.unknown
    for layer in "ab":
        assert not space.channels(layer).classes.any()
