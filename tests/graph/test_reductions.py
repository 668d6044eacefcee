"""Axes that are summed away, looked at as a whole, or pooled."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.nets import free, image, net, shrinks, why_not
from torchpare import plan
from torchpare.speedup import ModelSpeedup

CARRIED = {
    "max pool": lambda y: F.max_pool2d(y, 2),
    "max pool with padding": lambda y: F.max_pool2d(y, 3, padding=1),
    "average pool": lambda y: F.avg_pool2d(y, 2),
    "average pool with padding": lambda y: F.avg_pool2d(y, 3, padding=1),
    "adaptive average": lambda y: F.adaptive_avg_pool2d(y, 3),
    "global average": lambda y: F.adaptive_avg_pool2d(y, 1),
    "adaptive max": lambda y: F.adaptive_max_pool2d(y, 2),
    "nearest": lambda y: F.interpolate(y, scale_factor=2),
    "bilinear": lambda y: F.interpolate(y, size=(7, 7), mode="bilinear"),
    "bicubic": lambda y: F.interpolate(y, scale_factor=2, mode="bicubic"),
    "mean over pixels": lambda y: y.mean((2, 3), keepdim=True),
    "sum over rows": lambda y: y.sum(2, keepdim=True),
    "largest pixel": lambda y: y.amax((2, 3), keepdim=True),
    "softmax over pixels": lambda y: torch.softmax(y, dim=3),
    "norm over pixels": lambda y: torch.linalg.vector_norm(y, dim=(2, 3), keepdim=True),
    "standard deviation over pixels": lambda y: y.std((2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", CARRIED)
def test_what_happens_to_pixels_leaves_channels_alone(name):
    run = CARRIED[name]
    model = net(lambda m, x: m.b(run(m.a(x))), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    x = image()
    assert free(model, x, "a") == 5, why_not(model, x, "a")
    assert shrinks(model, x, {"a": [0, 3]}, expect={"a": (3, 3), "b": (2, 3)}).exact


@pytest.mark.parametrize("keepdim", [True, False])
def test_a_mean_without_keepdim_moves_the_axes(keepdim):
    model = net(
        lambda m, x: m.b(m.a(x).mean((2, 3), keepdim=keepdim).flatten(1)), a=nn.Conv2d(3, 5, 1), b=nn.Linear(5, 2)
    )
    shrinks(model, image(), {"a": [0, 3]}, expect={"a": (3, 3), "b": (2, 3)})


def test_one_dimensional_pooling():
    model = net(lambda m, x: m.b(F.avg_pool1d(F.max_pool1d(m.a(x), 2), 2)), a=nn.Conv1d(3, 5, 1), b=nn.Conv1d(5, 2, 1))
    shrinks(model, torch.randn(2, 3, 8).double(), {"a": [0, 3]}, expect={"a": (3, 3), "b": (2, 3)})


def gate(reduce):
    return net(lambda m, x: m.b(m.a(x) * torch.sigmoid(reduce(m.a(x)))), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))


def dropping(model, *channels):
    keep = torch.ones(5, dtype=torch.bool)
    keep[list(channels)] = False
    return ModelSpeedup(model, image(), {"a": {"weight": keep.view(5, 1, 1, 1), "bias": keep}}).speedup_model()


def test_a_sum_over_channels_is_the_same_sum():
    report = dropping(gate(lambda y: y.sum(1, keepdim=True)), 1, 2)
    assert report.exact
    assert report.largest_difference <= 1e-10


@pytest.mark.parametrize("name", ["mean", "amax", "amin", "var", "std"])
def test_a_reduction_over_pruned_channels_is_a_change_by_name(name):
    model = gate(lambda y: getattr(y, name)(1, keepdim=True))
    report = dropping(model, 1, 2)
    assert not report.exact
    assert f"{name} over the pruned axis" in {change.kind for change in report.changes}
    assert model.a.out_channels == 3


@pytest.mark.parametrize(
    ("name", "reduce"),
    [
        ("max", lambda y: y.max()),
        ("min", lambda y: y.min()),
        ("max", lambda y: torch.max(y, 1, keepdim=True)[0]),
        ("min", lambda y: y.min(dim=1, keepdim=True).values),
        ("all", lambda y: (y > -1).all(1, keepdim=True)),
        ("any", lambda y: (y > 1).any(1, keepdim=True)),
    ],
)
def test_a_question_about_all_entries_is_asked_of_those_that_stay(name, reduce):
    model = gate(reduce)
    dense = copy.deepcopy(model)
    report = dropping(model, 1, 2)
    assert {change.kind for change in report.changes} == {f"{name} over the pruned axis"}
    stay = dense.a(image())[:, [0, 3, 4]]
    wanted = F.conv2d(stay * torch.sigmoid(reduce(stay)), dense.b.weight[:, [0, 3, 4]], dense.b.bias)
    torch.testing.assert_close(model(image()), wanted)


@pytest.mark.parametrize(
    "reduce", [lambda y: torch.softmax(y, 1), lambda y: y.log_softmax(1), lambda y: sum(y.max(1, keepdim=True))]
)
def test_channels_that_are_compared_with_each_other_stay(reduce):
    model = gate(reduce)
    assert free(model, image(), "a") == 0
    assert "test_reductions.py" in why_not(model, image(), "a")


def test_a_check_of_all_values_holds_no_channel():
    def sample(m, x):
        spread = torch.distributions.Normal(m.a(x), torch.exp(m.s(x)))  # it asks whether its arguments make sense
        return m.b(spread.mean + 0.5 * spread.stddev)

    model = net(sample, a=nn.Linear(4, 6), s=nn.Linear(4, 6), b=nn.Linear(6, 2))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert free(model, x, "a") == 6, why_not(model, x, "a")
    shrinks(model, x, {"a": [1, 4], "s": [1, 4]}, expect={"a": (4, 4), "b": (2, 4)})


@pytest.mark.parametrize("take", [lambda y: y.max(-1)[0], lambda y: y.amin(-1), lambda y: y.logsumexp(-1)])
def test_rows_that_lose_other_entries_are_compared_with_what_each_keeps(take):
    model = net(
        lambda m, x: m.b(take(m.a(x).view(-1, m.units, m.pieces))),
        a=nn.Linear(4, 12),
        b=nn.Linear(3, 2),
        attributes={"units": 3, "pieces": 4},
    )
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        model.a.weight.copy_(torch.randn(12, 4, generator=torch.Generator().manual_seed(5)))
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert model.pieces < 4
    assert not report.exact
    assert report.largest_difference <= 1e-10


OVER_CHANNELS = {
    "max pool": lambda y: F.max_pool1d(y[:, None], 2)[:, 0],
    "average pool": lambda y: F.avg_pool1d(y[:, None], 2)[:, 0],
    "max pool of two axes": lambda y: F.max_pool2d(y[:, None, :, None], (2, 1))[:, 0, :, 0],
}


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_a_window_over_channels_goes_with_all_that_it_takes_in(name):
    model = net(lambda m, x: m.b(OVER_CHANNELS[name](m.a(x))), a=nn.Linear(3, 12), b=nn.Linear(6, 2))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shrinks(model, x, {"a": [2, 3, 8, 9]}, expect={"a": (8, 3), "b": (2, 4)})


WHOLE = {
    "windows that overlap": lambda y: F.max_pool1d(y[:, None], 2, 1)[:, 0],
    "windows with gaps": lambda y: F.max_pool1d(y[:, None], 2, 2, dilation=3)[:, 0],
    "windows beyond the border": lambda y: F.avg_pool1d(y[:, None], 2, 2, padding=1)[:, 0],
    "a rest": lambda y: F.avg_pool1d(y[:, None], 5)[:, 0],
    "places": lambda y: F.max_unpool1d(*F.max_pool1d(y[:, None], 2, return_indices=True), 2)[:, 0],
}


@pytest.mark.parametrize("name", WHOLE)
def test_other_windows_over_channels_keep_them(name):
    model = net(lambda m, x: WHOLE[name](m.a(x)).sum(1), a=nn.Linear(3, 12))
    assert free(model, torch.randn(4, 3, dtype=torch.float64), "a") == 0


@pytest.mark.parametrize("pool", [F.max_pool1d, F.avg_pool1d, lambda y, width: F.lp_pool1d(y, 2, width)])
def test_windows_whose_width_follows_the_channels_keep_them(pool):
    def run(m, x):
        y = m.a(x)
        return m.b(pool(y[:, None], y.shape[-1] // 4)[:, 0])

    model = net(run, a=nn.Linear(3, 12), b=nn.Linear(4, 2))
    found = plan(model, [{"sparsity": 0.75, "structures": ["all"]}], torch.randn(4, 3, dtype=torch.float64))
    assert found.parameters[0] == found.parameters[1]
    assert found.apply().parameters_after == found.parameters[0]


def test_windows_over_all_of_an_image_keep_no_channel():
    model = net(lambda m, x: m.b(F.avg_pool2d(m.a(x), x.shape[2:])), a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1))
    assert plan(model, [{"sparsity": 0.5, "structures": ["all"]}], image()).apply().parameters_after < 26 + 18
