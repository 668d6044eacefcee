"""Channels that become pixels or columns of windows, and the way back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.nets import free, image, net, shrinks, why_not


def test_four_channels_that_become_one_at_twice_the_size_go_together():
    model = net(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(3, 2, 1))
    before = model.a.weight.detach().clone()
    shrinks(model, image(), {"a": [4, 5, 6, 7]}, expect={"a": (8, 3), "b": (2, 2)})
    assert torch.equal(model.a.weight, before[[0, 1, 2, 3, 8, 9, 10, 11]])


def test_a_part_of_a_pixel_cannot_go():
    model = net(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(3, 2, 1))
    report = shrinks(model, image(), {"a": [4, 5, 6, 7, 8]}, expect={"a": (8, 3), "b": (2, 2)})
    assert report.exact


def test_a_channel_that_becomes_four_at_half_the_size_takes_them_along():
    model = net(lambda m, x: m.b(nn.PixelUnshuffle(2)(m.a(x))), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(16, 2, 1))
    before = model.b.weight.detach().clone()
    shrinks(model, image(), {"a": [1]}, expect={"a": (3, 3), "b": (2, 12)})
    assert torch.equal(model.b.weight, before[:, [*range(4), *range(8, 16)]])


def test_there_and_back_again():
    model = net(
        lambda m, x: m.b(F.pixel_shuffle(F.pixel_unshuffle(m.a(x), 3).relu(), 3)),
        a=nn.Conv2d(3, 5, 1),
        b=nn.Conv2d(5, 2, 1),
    )
    shrinks(model, image(), {"a": [0, 4]}, expect={"a": (3, 3), "b": (2, 3)})


WRITTEN = {
    "shuffle": lambda m, y: (
        y.view(y.size(0), -1, 2, 2, *y.shape[2:]).permute(0, 1, 4, 2, 5, 3).reshape(y.size(0), -1, 12, 12)
    ),
    "upsampled": lambda m, y: F.pixel_shuffle(y, m.factor),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_by_hand(name):
    run = WRITTEN[name]
    model = net(lambda m, x: m.b(run(m, m.a(x))), attributes={"factor": 2}, a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(3, 2, 1))
    shrinks(model, image(), {"a": [4, 5, 6, 7]}, expect={"a": (8, 3), "b": (2, 2)})


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 3}, {"kernel_size": (2, 3), "stride": 2, "padding": 1}, {"kernel_size": 2, "dilation": 2}],
)
def test_the_columns_of_a_window_go_with_their_channel(options):
    size = options["kernel_size"]
    kernel = size[0] * size[1] if isinstance(size, tuple) else size * size
    model = net(lambda m, x: m.b(F.unfold(m.a(x), **options).mT), a=nn.Conv2d(3, 4, 1), b=nn.Linear(4 * kernel, 2))
    before = model.b.weight.detach().clone()
    shrinks(model, image(), {"a": [2]}, expect={"a": (3, 3), "b": (2, 3 * kernel)})
    assert torch.equal(model.b.weight, torch.cat([before[:, : 2 * kernel], before[:, 3 * kernel :]], 1))


def test_a_convolution_by_windows_loses_input_channels():
    """``weight.view(O, -1) @ unfold(x)``: the kernel's axes are merged with the channels."""

    def run(m, x):
        y = m.a(x)
        columns = F.unfold(y, 3, padding=1)
        return m.b((m.weight.flatten(1) @ columns).view(y.shape[0], -1, 6, 6))

    model = net(
        run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(5, 2, 1), attributes={"weight": nn.Parameter(torch.randn(5, 4, 3, 3))}
    )
    shrinks(model, image(), {"a": [1, 2]}, expect={"a": (2, 3), "b": (2, 5)})
    assert tuple(model.weight.shape) == (5, 2, 3, 3)


def test_windows_laid_together_again_give_their_channels_back():
    def run(m, x):
        windows = F.unfold(m.a(x), 2, stride=2)
        return m.b(F.fold(windows * 2, (6, 6), 2, stride=2))

    model = net(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
    shrinks(model, image(), {"a": [1, 2]}, expect={"a": (2, 3), "b": (2, 2)})


def test_the_entries_of_a_window_that_a_layer_makes_go_together():
    x = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = net(lambda m, x: m.b(F.fold(m.a(x).mT, (6, 6), 2, stride=2)), a=nn.Linear(3, 16), b=nn.Conv2d(4, 2, 1))
    shrinks(model, x, {"a": [4, 5, 6, 7]}, expect={"a": (12, 3), "b": (2, 3)})


def test_windows_over_channels_keep_them():
    model = net(lambda m, x: m.b(m.a(x).unfold(1, 2, 2).mean(-1)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(2, 2, 1))
    assert free(model, image(), "a") == 0
    assert "unfold" in why_not(model, image(), "a")


def test_windows_over_pixels_carry_channels():
    model = net(lambda m, x: m.b(m.a(x).unfold(2, 3, 3).mean(-1)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
    shrinks(model, image(), {"a": [0]}, expect={"a": (3, 3), "b": (2, 3)})
