"""Masks on a convolution alone leave constants behind: moved where that is exact, reported by name where it is not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.graph.nets import image, keep_without, net
from tests.networks.oracles import exact_output, masked_by_hand, relative
from torchpare.speedup import ModelSpeedup

KEEP = keep_without(6, 1, 4)
ALONE = {"a": {"weight": KEEP.view(6, 1, 1, 1)}}


def chain(reader, activation=nn.ReLU, **more):
    model = net(
        lambda m, x: m.b(m.act(m.norm(m.a(x)))),
        a=nn.Conv2d(3, 6, 3, bias=False),
        norm=nn.BatchNorm2d(6),
        act=activation(),
        b=reader,
        **more,
    )
    with torch.no_grad():
        model.norm.bias.abs_().add_(1)  # so that something is left behind the activation
        model.norm.running_mean.abs_().neg_()
    return model


EXACT = {
    "convolution": lambda: nn.Conv2d(6, 2, 3),
    "convolution without bias": lambda: nn.Conv2d(6, 2, 3, bias=False),
    "pointwise": lambda: nn.Conv2d(6, 2, 1),
    "strided and dilated": lambda: nn.Conv2d(6, 2, 2, stride=2, dilation=2),
    "padded by reflection": lambda: nn.Conv2d(6, 2, 3, padding=1, padding_mode="reflect"),
    "padded by repetition": lambda: nn.Conv2d(6, 2, 3, padding="same", padding_mode="replicate"),
    "grouped": lambda: nn.Conv2d(6, 4, 3, groups=2),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Hardswish])
@pytest.mark.parametrize("name", EXACT)
def test_without_padding_the_constant_moves_into_the_readers_bias(name, activation, dtype):
    model, x = chain(EXACT[name](), activation).to(dtype), image().to(dtype)
    dense = copy.deepcopy(model)
    report = ModelSpeedup(model, x, ALONE).speedup_model()
    assert report.exact
    assert report.folded == ("b",)
    assert report.largest_difference == report.masked_difference <= 1e-10
    assert report.output_change > 1e-3
    rounding = 1e-10 if dtype is torch.float64 else 1e-6
    assert relative(exact_output(masked_by_hand(dense, ALONE), x), exact_output(model, x)) <= rounding
    assert model.a.out_channels == model.b.in_channels == 4
    added = ["b.bias"] if name == "convolution without bias" else []
    assert model.torchpare_structure["added_parameters"] == added
    assert isinstance(model.b.bias, nn.Parameter)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_readers_take_constants_of_all_their_pixels(bias):
    model = net(
        lambda m, x: m.b(torch.relu(m.norm(m.a(x))).flatten(1)),
        a=nn.Conv2d(3, 6, 3, bias=False),
        norm=nn.BatchNorm2d(6),
        b=nn.Linear(96, 2, bias=bias),
    )
    with torch.no_grad():
        model.norm.bias.add_(2)
    dense, x = copy.deepcopy(model), image()
    report = ModelSpeedup(model, x, ALONE).speedup_model()
    assert (report.exact, report.folded) == (True, ("b",))
    assert relative(exact_output(masked_by_hand(dense, ALONE), x), exact_output(model, x)) <= 1e-10
    assert model.b.in_features == 64


PADDED = {
    "convolution": lambda: nn.Conv2d(6, 2, 3, padding=1),
    "same": lambda: nn.Conv2d(6, 2, 3, padding="same"),
    "transposed": lambda: nn.ConvTranspose2d(6, 2, 3),
}


@pytest.mark.parametrize("name", PADDED)
def test_at_a_padded_border_the_function_changes_and_the_report_says_so(name):
    model, x = chain(PADDED[name]()), image()
    dense = copy.deepcopy(model)
    report = ModelSpeedup(model, x, ALONE).speedup_model()
    assert not report.exact
    assert [(change.kind, change.module, change.channels) for change in report.changes] == [
        ("a constant at a padded border", "b", 2)
    ]
    assert report.masked_difference > 1e-3
    assert report.largest_difference <= 1e-10  # against the model whose removed channels contribute nothing
    measured = relative(exact_output(masked_by_hand(dense, ALONE), x), exact_output(model, x))
    assert report.masked_difference == pytest.approx(measured)
    assert "changed by nature: a constant at a padded border in module 'b' (2 channels)" in str(report)


def test_masks_of_the_whole_group_leave_nothing_behind_a_padded_reader():
    model, x = chain(nn.Conv2d(6, 2, 3, padding=1)), image()
    group = {"a": ALONE["a"], "norm": {"weight": KEEP, "bias": KEEP}}
    dense = copy.deepcopy(model)
    report = ModelSpeedup(model, x, group).speedup_model()
    assert (report.exact, report.folded, report.changes) == (True, (), ())
    assert relative(exact_output(masked_by_hand(dense, group), x), exact_output(model, x)) <= 1e-10


def test_a_constant_that_a_shift_cancels_is_no_constant():
    model, x = chain(nn.Conv2d(6, 2, 3, padding=1)), image()
    with torch.no_grad():
        model.norm.bias.neg_()
        model.norm.running_mean.neg_()  # the constant is negative: the activation makes it zero
    report = ModelSpeedup(model, x, ALONE).speedup_model()
    assert (report.exact, report.folded) == (True, ())


def test_a_reader_that_is_called_twice_folds_nothing():
    model = net(
        lambda m, x: m.b(torch.relu(m.a(x))) + m.b(torch.sigmoid(m.a(x))), a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1)
    )
    report = ModelSpeedup(model, image(), ALONE).speedup_model()
    assert report.folded == ()
    assert not report.exact
    assert {change.module for change in report.changes} == {"b"}
