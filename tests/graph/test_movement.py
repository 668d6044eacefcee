"""Operators that move channels about: the labels move with them, and sizes in the code follow or freeze."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.nets import free, image, net, same_fate, shrinks, why_not
from torchpare import plan
from torchpare.graph import analyse
from torchpare.speedup import ModelSpeedup


def test_concatenated_channels_keep_their_order():
    model = net(
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 2, 1),
        c=nn.Conv2d(6, 2, 1),
    )
    before = model.c.weight.detach().clone()
    shrinks(model, image(), {"a": [1], "b": [0]}, expect={"a": (3, 3), "b": (1, 3), "c": (2, 4)})
    assert torch.equal(model.c.weight, before[:, [0, 2, 3, 5]])


def test_a_tensor_concatenated_with_itself_loses_both_copies():
    def run(m, x):
        y = m.a(x)
        return m.b(torch.cat([y, y], dim=1))

    model = net(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(8, 2, 1))
    shrinks(model, image(), {"a": [1, 3]}, expect={"a": (2, 3), "b": (2, 4)})


def test_nothing_laid_end_to_end_with_nothing_is_nothing():
    def run(m, x):
        nothing = torch.cat([x.new_zeros(0), x.new_zeros(0)])
        return m.b(torch.cat([m.a(x).flatten(), nothing]).view(x.shape[0], -1, *x.shape[2:]))

    model = net(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
    assert analyse(model, image()).producers


def test_concatenation_along_another_axis_ties():
    model = net(
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], dim=2)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 4, 1),
        c=nn.Conv2d(4, 2, 1),
    )
    assert same_fate(model, image(), "a", "b")
    shrinks(model, image(), {"a": [1], "b": [1]}, expect={"a": (3, 3), "b": (3, 3), "c": (2, 3)})


def test_stacked_tensors_lose_the_same_channels():
    model = net(
        lambda m, x: m.c(torch.stack([m.a(x), m.b(x)], 1).sum(1)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 4, 1),
        c=nn.Conv2d(4, 2, 1),
    )
    assert same_fate(model, image(), "a", "b")
    shrinks(model, image(), {"a": [0, 2], "b": [0, 2]}, expect={"a": (2, 3), "b": (2, 3), "c": (2, 2)})


def halves(cut):
    def run(m, x):
        left, right = cut(m, m.a(x))
        return m.b(left * torch.sigmoid(right))

    return net(run, attributes={"half": 3}, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 2, 1))


FOLLOWING = {
    "chunk": lambda m, y: y.chunk(2, 1),
    "torch.chunk": lambda m, y: torch.chunk(y, chunks=2, dim=1),
    "split by shape": lambda m, y: y.split(y.shape[1] // 2, dim=1),
    "split by attribute": lambda m, y: torch.split(y, m.half, dim=1),
    "split by a list of attributes": lambda m, y: torch.split(y, [m.half, m.half], dim=1),
    "slices by shape": lambda m, y: (y[:, : y.size(1) // 2], y[:, y.size(1) // 2 :]),
    "slices by attribute": lambda m, y: (y[:, : m.half], y[:, m.half :]),
    "slices by attribute, on an ellipsis": lambda m, y: (y[:, : m.half, ...], y[:, m.half :, ...]),
    "narrow": lambda m, y: (y.narrow(1, 0, m.half), torch.narrow(y, dim=1, start=m.half, length=m.half)),
    "narrow by what there is": lambda m, y: (y.narrow(-3, 0, y.size(1) // 2), y[:, y.size(1) // 2 :]),
    "narrow from the middle": lambda m, y: (y.narrow(1, 0, m.half), y.narrow(1, y.size(1) - m.half, m.half)),
    "tensor_split": lambda m, y: y.tensor_split(2, dim=1),
    "hsplit": lambda m, y: torch.hsplit(y, 2),
    "view and select": lambda m, y: y.view(y.size(0), 2, -1, *y.shape[2:]).unbind(1),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_halves_lose_pairs_of_channels(name):
    model, x = halves(FOLLOWING[name]), image()
    assert free(model, x, "a") == 6, why_not(model, x, "a")
    shrinks(model, x, {"a": [1, 4]}, expect={"a": (4, 3), "b": (2, 2)})


NUMBERS = {
    "split": lambda m, y: y.split(3, dim=1),
    "split by a list": lambda m, y: y.split([3, 3], dim=1),
    "slices": lambda m, y: (y[:, :3], y[:, 3:]),
    "slices from the back": lambda m, y: (y[:, :-3], y[:, -3:]),
    "narrow": lambda m, y: (y.narrow(1, 0, 3), y.narrow(1, 3, 3)),
    "narrow from the back": lambda m, y: (y.narrow(1, 0, m.half), y.narrow(1, -m.half, m.half)),
    "a step": lambda m, y: (y[:, ::2], y[:, 1::2]),
    "tensor_split": lambda m, y: y.tensor_split((3,), 1),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_sizes_typed_as_numbers_freeze_and_say_where(name):
    model, x = halves(NUMBERS[name]), image()
    assert free(model, x, "a") == 0
    assert "test_movement.py" in why_not(model, x, "a")


def test_chunks_are_equal_so_they_lose_equally_many():
    def run(m, x):
        left, right = m.a(x).chunk(2, dim=1)
        return m.b(left), m.c(right)

    for dropped, left in (([0], 6), ([0, 1, 4], 4)):
        model = net(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 2, 1), c=nn.Conv2d(3, 2, 1))
        keep = torch.tensor([index not in dropped for index in range(6)])
        report = ModelSpeedup(model, image(), {"a": {"weight": keep.view(6, 1, 1, 1), "bias": keep}}).speedup_model()
        assert report.largest_difference <= 1e-10
        assert (model.a.out_channels, model.b.in_channels, model.c.in_channels) == (left, left // 2, left // 2)


def test_uneven_pieces_follow_their_attributes():
    def run(m, x):
        left, right = m.a(x).split((m.left, m.right), dim=1)
        return m.b(left), m.c(right)

    model = net(
        run, attributes={"left": 2, "right": 4}, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(2, 2, 1), c=nn.Conv2d(4, 2, 1)
    )
    x = image()
    keep = torch.tensor([True, False, True, False, False, True])
    report = ModelSpeedup(model, x, {"a": {"weight": keep.view(6, 1, 1, 1), "bias": keep}}).speedup_model()
    assert report.largest_difference <= 1e-10
    assert (model.left, model.right) == (1, 2)
    assert (model.b.in_channels, model.c.in_channels) == (1, 2)


def test_a_prefix_typed_as_a_number_keeps_the_prefix_only():
    model = net(
        lambda m, x: (m.b(m.a(x)[:, :2]), m.c(m.a(x))), a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(2, 2, 1), c=nn.Conv2d(6, 2, 1)
    )
    classes = analyse(model, image()).channels("a").classes
    assert classes[:2].tolist() == [0, 0]
    assert 0 not in classes[2:]


PERMUTED = {
    "permute": lambda m, y: y.permute(0, 2, 3, 1),
    "transpose": lambda m, y: y.transpose(1, 3),
    "movedim": lambda m, y: y.movedim(1, -1),
    "swapaxes": lambda m, y: torch.swapaxes(y, 1, -1),
    "flatten and transpose": lambda m, y: y.flatten(2).transpose(1, 2),
    "mT": lambda m, y: y.flatten(2).mT,
}


@pytest.mark.parametrize("name", PERMUTED)
def test_channels_are_found_where_a_permutation_puts_them(name):
    move = PERMUTED[name]
    model = net(lambda m, x: m.b(move(m, torch.relu(m.a(x)))), a=nn.Conv2d(3, 5, 1), b=nn.Linear(5, 2))
    shrinks(model, image(), {"a": [0, 3]}, expect={"a": (3, 3), "b": (2, 3)})


def test_the_sum_of_a_tensor_and_its_transpose_ties_two_axes():
    model = net(
        lambda m, x: m.b((m.a(x).flatten(2) @ m.c(x).flatten(2).mT).mT.sum(2)),
        a=nn.Conv2d(3, 5, 1),
        c=nn.Conv2d(3, 4, 1),
        b=nn.Linear(4, 2),
    )
    shrinks(model, image(), {"a": [0], "c": [1, 2]}, expect={"a": (4, 3), "c": (2, 3), "b": (2, 2)})


EXPANDED = {
    "expand_as": lambda m, y: F.adaptive_avg_pool2d(y, 1).expand_as(y),
    "expand by shape": lambda m, y: F.adaptive_avg_pool2d(y, 1).expand(-1, y.size(1), *y.shape[2:]),
    "expand": lambda m, y: F.adaptive_avg_pool2d(y, 1).expand(-1, -1, 6, 6),
    "broadcast_to": lambda m, y: F.adaptive_avg_pool2d(y, 1).broadcast_to(y.shape),
}


@pytest.mark.parametrize("name", EXPANDED)
def test_expanding_other_axes_carries_channels(name):
    run = EXPANDED[name]
    model = net(lambda m, x: m.b(run(m, m.a(x))), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    shrinks(model, image(), {"a": [2]}, expect={"a": (4, 3), "b": (2, 4)})


def test_expanding_to_a_number_of_channels_freezes():
    model = net(
        lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1).expand(-1, 5, 6, 6)),
        a=nn.Conv2d(3, 5, 1),
        b=nn.Conv2d(5, 2, 1),
    )
    assert free(model, image(), "a") == 0
    assert "number 5" in why_not(model, image(), "a")


def test_a_selected_channel_stays_with_those_from_which_it_is_counted():
    for index, staying in ((0, {0}), (1, {0, 1}), (-1, {4}), (-2, {3, 4})):

        def run(m, x, index=index):
            y = m.a(x)
            return m.b(y) + y[:, index].unsqueeze(1)

        model = net(run, a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
        classes = analyse(model, image()).channels("a").classes
        assert set(np.flatnonzero(classes == 0).tolist()) == staying
        assert "names an index" in why_not(model, image(), "a")
        shrinks(model, image(), {"a": [2]}, expect={"a": (4, 3), "b": (2, 4)})


def test_unbinding_channels_freezes_them():
    model = net(lambda m, x: m.b(m.a(x).unbind(1)[0]), a=nn.Conv2d(3, 5, 1), b=nn.Linear(6, 2))
    assert free(model, image(), "a") == 0
    assert "names an index" in why_not(model, image(), "a")


def test_selecting_a_pixel_carries_channels():
    model = net(lambda m, x: m.b(m.a(x)[:, :, 2, -1]), a=nn.Conv2d(3, 5, 1), b=nn.Linear(5, 2))
    shrinks(model, image(), {"a": [1, 2]}, expect={"a": (3, 3), "b": (2, 3)})


def test_unsqueeze_and_squeeze_undo_each_other():
    model = net(lambda m, x: m.b(m.a(x).unsqueeze(2).squeeze(2)), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    shrinks(model, image(), {"a": [1, 2]}, expect={"a": (3, 3), "b": (2, 3)})


def test_squeeze_of_everything_would_swallow_a_last_channel_so_two_stay():
    for sparsity, left in ((0.5, 3), (0.9, 2)):
        model = net(
            lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1).squeeze()), a=nn.Conv2d(3, 5, 1), b=nn.Linear(5, 2)
        )
        plan(model, [{"sparsity": sparsity, "structures": ["all"]}], image()).apply()
        assert (model.a.out_channels, model.b.in_features) == (left, left)


def test_shuffled_groups_lose_the_same_channels():
    model = net(
        lambda m, x: m.b(m.shuffle(m.a(x))), a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1), shuffle=nn.ChannelShuffle(2)
    )
    assert same_fate(model, image(), "a") is False or free(model, image(), "a") == 6
    shrinks(model, image(), {"a": [1, 4]}, expect={"a": (4, 3), "b": (2, 4)})
    assert model.shuffle.groups == 2


def test_padded_channels_stay_between_those_that_can_go():
    model = net(lambda m, x: m.b(F.pad(m.a(x), (0, 0, 0, 0, 1, 2))), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(7, 2, 1))
    before = model.b.weight.detach().clone()
    shrinks(model, image(), {"a": [0, 2]}, expect={"a": (2, 3), "b": (2, 5)})
    assert torch.equal(model.b.weight, before[:, [0, 2, 4, 5, 6]])


def test_a_shortcut_padded_with_channels_by_number():
    """The parameter-free shortcut of the first CIFAR nets."""

    def run(m, x):
        y = torch.relu(m.a(x))
        return m.head(m.b(y) + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))

    model = net(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 8, 3, stride=2, padding=1), head=nn.Conv2d(8, 2, 1))
    space = analyse(model, image())
    assert space.channels("b").classes.tolist()[2:6] == space.channels("a").classes.tolist()
    assert space.channels("b").classes.tolist()[:2] == [0, 0]  # they meet the padding
    shrinks(model, image(), {"a": [1], "b": [3]}, expect={"a": (3, 3), "b": (7, 3), "head": (2, 7)})


def test_a_shortcut_padded_to_what_it_meets():
    def run(m, x):
        y = m.a(x)
        z = m.b(y)
        return m.head(z + F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 0, z.shape[1] - y.shape[1])))

    model = net(run, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 8, 3, stride=2, padding=1), head=nn.Conv2d(8, 2, 1))
    assert analyse(model, image()).channels("b").classes.tolist()[4:] == [0] * 4  # they meet the padding
    shrinks(model, image(), {"a": [0, 2], "b": [0, 2]}, expect={"a": (2, 3), "b": (6, 2), "head": (2, 6)})


@pytest.mark.parametrize("stride", [lambda y: y.stride(0), lambda y: y.stride()[-3], lambda y: y.stride(dim=0)])
def test_strides_are_sizes_where_entries_lie_in_order(stride):
    model = net(lambda m, x: m.b((y := m.a(x)).view(-1, stride(y))), a=nn.Linear(3, 4), b=nn.Linear(20, 2))
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shrinks(model, x, {"a": [1]}, expect={"a": (3, 3), "b": (2, 15)})
    model = net(lambda m, x: m.b((y := m.a(x)) / stride(y)), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    assert "compares" in (plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).groups[0].why or "")


def test_spatial_padding_and_rolls_carry_channels():
    for pad in (
        lambda y: F.pad(y, (1, 1, 2, 0)),
        lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"),
        lambda y: F.pad(y, (1, 1, 1, 1), mode="replicate"),
        lambda y: torch.roll(y, 1, dims=2),
        lambda y: y.flip(3),
        lambda y: y[:, :, 1:-1, ::2],
    ):
        model = net(lambda m, x, pad=pad: m.b(pad(m.a(x))), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
        shrinks(model, image(), {"a": [0, 2]}, expect={"a": (2, 3), "b": (2, 2)})


def test_flipped_channels_are_followed():
    model = net(lambda m, x: m.b(m.a(x).flip(1, 2)), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
    shrinks(model, image(), {"a": [0, 2]}, expect={"a": (2, 3), "b": (2, 2)})


def test_rolled_or_sorted_channels_stay():
    for move in (lambda y: torch.roll(y, 1, 1), lambda y: y.sort(1).values, lambda y: y.cumsum(1)):
        model = net(lambda m, x, move=move: m.b(move(m.a(x))), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
        assert free(model, image(), "a") == 0
        assert why_not(model, image(), "a")


MADE = {
    "zeros": lambda m, y: torch.zeros(y.size(0), y.size(1), *y.shape[2:], dtype=y.dtype) + y,
    "new_zeros": lambda m, y: y.new_zeros(y.shape) + y,
    "zeros_like": lambda m, y: torch.zeros_like(y) + y,
    "full": lambda m, y: torch.full((1, y.shape[1], 1, 1), 2.0, dtype=y.dtype) * y,
    "by attribute": lambda m, y: torch.ones(1, m.width, 1, 1, dtype=y.dtype) * y,
}


@pytest.mark.parametrize("name", MADE)
def test_a_new_tensor_of_computed_size_follows(name):
    run = MADE[name]
    model = net(lambda m, x: m.b(run(m, m.a(x))), attributes={"width": 4}, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
    shrinks(model, image(), {"a": [0, 2]}, expect={"a": (2, 3), "b": (2, 2)})


def test_a_new_tensor_of_a_typed_size_freezes():
    model = net(lambda m, x: m.b(m.a(x) + torch.zeros(1, 4, 1, 1).double()), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))
    assert free(model, image(), "a") == 0


def test_pairs_that_are_seen_as_complex_numbers_lie_at_even_places():
    """A view as complex numbers of a piece of a row wants rows of even length: torch refuses others."""

    def run(m, x):
        rest, pairs = m.a(x).split([m.width, 4], dim=-1)
        turned = torch.view_as_complex(pairs.unflatten(-1, (2, 2))) * m.turn
        return m.b(rest) + m.c(torch.view_as_real(turned).flatten(-2))

    model = net(run, a=nn.Linear(3, 14), b=nn.Linear(10, 2), c=nn.Linear(4, 2), attributes={"width": 10}).float()
    model.turn = torch.polar(torch.ones(2), torch.tensor([0.3, 0.7]))
    x = torch.randn(5, 3)
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert model.width in (4, 6)
    assert model(x).shape == (5, 2)
