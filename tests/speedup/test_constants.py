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


RECURRENT = {
    "lstm": lambda **o: nn.LSTM(6, 5, batch_first=True, **o),
    "both ways": lambda **o: nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True, **o),
    "gru": lambda **o: nn.GRU(6, 5, batch_first=True, **o),
    "rnn": lambda **o: nn.RNN(6, 5, batch_first=True, **o),
}


def behind_a_norm(read, **layers):
    """A convolution and a norm, of whose map a reader makes something of its own."""
    model = net(
        lambda m, x: m.head(read(m, torch.relu(m.norm(m.a(x))))),
        a=nn.Conv2d(3, 6, 3, bias=False),
        norm=nn.BatchNorm2d(6),
        **layers,
    )
    with torch.no_grad():
        model.norm.bias.abs_().add_(1)
        model.norm.running_mean.abs_().neg_()
    return model


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_readers_take_constants_into_the_bias_of_what_they_read(name):
    reader = RECURRENT[name]()
    width = 5 * (1 + reader.bidirectional)
    model = behind_a_norm(lambda m, x: m.b(x.flatten(2).transpose(1, 2))[0][:, -1], b=reader, head=nn.Linear(width, 2))
    dense, x = copy.deepcopy(model), image()
    report = ModelSpeedup(model, x, ALONE).speedup_model()
    assert (report.exact, report.folded) == (True, ("b",))
    assert relative(exact_output(masked_by_hand(dense, ALONE), x), exact_output(model, x)) <= 1e-10
    assert model.b.weight_ih_l0.shape[1] == 4


def test_a_recurrent_cell_takes_them_too():
    model = behind_a_norm(lambda m, x: m.b(x.mean((2, 3))), b=nn.GRUCell(6, 5), head=nn.Linear(5, 2))
    dense, x = copy.deepcopy(model), image()
    report = ModelSpeedup(model, x, ALONE).speedup_model()
    assert (report.exact, report.folded) == (True, ("b",))
    assert relative(exact_output(masked_by_hand(dense, ALONE), x), exact_output(model, x)) <= 1e-10


class Raw(nn.Module):
    """Readers that are no layers of torch: a matrix, a convolution by hand, and one whose kernel is computed."""

    def __init__(self, shape):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        if self.w.dim() == 2:
            return x.mean((2, 3)) @ self.w
        return nn.functional.conv2d(x, torch.tanh(self.w), padding=1).mean((2, 3))


READERS = {
    "a matrix": lambda: Raw((6, 5)),
    "a computed kernel": lambda: Raw((5, 6, 3, 3)),
    "a normalised weight": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 5, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "a recurrent layer without bias": lambda: nn.Sequential(
        nn.Flatten(2), net(lambda m, x: m.r(x.transpose(1, 2))[0][:, -1], r=nn.LSTM(6, 5, bias=False, batch_first=True))
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_that_are_no_layers_of_torch_are_told_of_by_name(name):
    model, x = behind_a_norm(lambda m, x: m.b(x), b=READERS[name](), head=nn.Linear(5, 2)), image()
    dense = copy.deepcopy(model)
    report = ModelSpeedup(model, x, ALONE).speedup_model()
    assert not report.exact
    assert [(change.module.split(".")[0], change.channels) for change in report.changes] == [("b", 2)]
    measured = relative(exact_output(masked_by_hand(dense, ALONE), x), exact_output(model, x))
    assert report.masked_difference == pytest.approx(measured)
    assert report.masked_difference > 1e-6
    assert report.largest_difference <= 1e-10


def test_a_raw_reader_of_channels_that_are_zero_changes_nothing():
    model = net(lambda m, x: m.head(m.b(torch.relu(m.a(x)))), a=nn.Conv2d(3, 6, 3), b=Raw((6, 5)), head=nn.Linear(5, 2))
    masks = {"a": {"weight": ALONE["a"]["weight"], "bias": KEEP}}
    report = ModelSpeedup(model, image(), masks).speedup_model()
    assert (report.exact, report.changes) == (True, ())
    assert report.masked_difference <= 1e-10
