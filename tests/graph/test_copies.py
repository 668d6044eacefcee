"""Copies of channels, and channels in reverse: each copy goes with its original."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.graph.nets import free, image, net, shrinks, why_not
from torchpare import plan


def steps():
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def between(middle, *, reads, **more):
    return net(lambda m, x: m.b(middle(m, m.a(x))), a=nn.Linear(3, 4), b=nn.Linear(reads, 2), **more)


END_TO_END = {
    "repeat": lambda m, y: y.repeat(1, 1, 2),
    "tile": lambda m, y: torch.tile(y, (2,)),
    "by attribute": lambda m, y: y.repeat(1, 1, m.times),
    "concat": lambda m, y: torch.cat([y, y], -1),
    "expand": lambda m, y: y.unsqueeze(2).expand(-1, -1, 2, -1).flatten(2),
    "broadcast": lambda m, y: (y.unsqueeze(2) * torch.ones(2, 1).to(y)).flatten(2),
}
SIDE_BY_SIDE = {
    "repeat_interleave": lambda m, y: y.repeat_interleave(2, dim=-1),
    "expand": lambda m, y: y.unsqueeze(-1).expand(-1, -1, -1, 2).flatten(2),
    "stack": lambda m, y: torch.stack([y, y], -1).flatten(2),
    "kron": lambda m, y: (y[..., None] * torch.ones(2).to(y)).reshape(*y.shape[:2], -1),
}


@pytest.mark.parametrize("name", END_TO_END)
def test_copies_laid_end_to_end_lose_the_same_channel(name):
    model = between(END_TO_END[name], reads=8, attributes={"times": 2})
    before = model.b.weight.detach().clone()
    shrinks(model, steps(), {"a": [1]}, expect={"a": (3, 3), "b": (2, 6)})
    assert torch.equal(model.b.weight, before[:, [0, 2, 3, 4, 6, 7]])


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_copies_side_by_side_lose_the_same_channel(name):
    model = between(SIDE_BY_SIDE[name], reads=8)
    before = model.b.weight.detach().clone()
    shrinks(model, steps(), {"a": [1]}, expect={"a": (3, 3), "b": (2, 6)})
    assert torch.equal(model.b.weight, before[:, [0, 1, 4, 5, 6, 7]])


def test_repeating_other_axes_carries_channels():
    for repeat in (
        lambda m, y: y.repeat(1, 3, 1),
        lambda m, y: y.repeat(2, 1, 1, 1).sum(0),
        lambda m, y: y.repeat(m.times, 2, 1),
        lambda m, y: y.repeat_interleave(2, 1),
    ):
        model = between(repeat, reads=4, attributes={"times": 2})
        shrinks(model, steps(), {"a": [0, 3]}, expect={"a": (2, 3), "b": (2, 2)})


def test_how_often_something_is_repeated_stays():
    """The number of copies is an attribute that also counts heads: then no head can go."""

    def run(m, y):
        heads = y.view(2, 5, m.heads, -1)
        return heads.tanh().flatten(2).repeat(1, 1, m.heads)

    model = between(run, reads=8, attributes={"heads": 2})
    made = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], steps())
    assert made.apply().largest_difference <= 1e-10
    assert (model.heads, model.a.out_features, model.b.in_features) == (2, 2, 4)


def test_a_single_channel_repeated_as_often_as_there_are_others_follows_them():
    model = net(
        lambda m, x: m.b(m.a(x) * m.gate(x).repeat(1, 1, m.a(x).shape[-1])),
        a=nn.Linear(3, 4), gate=nn.Linear(3, 1), b=nn.Linear(4, 2),
    )  # fmt: skip
    shrinks(model, steps(), {"a": [0]}, expect={"a": (3, 3), "gate": (1, 3), "b": (2, 3)})


def test_a_single_channel_repeated_a_typed_number_of_times_freezes_what_it_meets():
    model = net(
        lambda m, x: m.b(m.a(x) * m.gate(x).repeat(1, 1, 4)), a=nn.Linear(3, 4), gate=nn.Linear(3, 1), b=nn.Linear(4, 2)
    )
    assert free(model, steps(), "a") == 0
    assert why_not(model, steps(), "a")


@pytest.mark.parametrize("axes", [(2,), (-1, 1), (1, 2)])
def test_flipped_channels_are_followed_to_their_new_places(axes):
    model = net(lambda m, x: m.b(m.a(x).flip(axes)), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    before = model.b.weight.detach().clone()
    shrinks(model, steps(), {"a": [0]}, expect={"a": (3, 3), "b": (2, 3)})
    assert torch.equal(model.b.weight, before[:, :3])  # the first channel is read last


def test_a_tensor_and_its_mirror_image_tie_channels_in_pairs():
    model = net(lambda m, x: m.b(m.a(x) + m.a(x).flip(1)), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    shrinks(model, image(), {"a": [0, 4]}, expect={"a": (3, 3), "b": (2, 3)})
    model = net(lambda m, x: m.b(m.a(x) + m.a(x).fliplr()), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    shrinks(model, image(), {"a": [0]}, expect={"a": (5, 3), "b": (2, 5)})


def test_rotated_pairs_of_channels_go_together():
    """Half of the channels is turned against the other half, as in rotary positions."""

    def run(m, x):
        y = m.a(x)
        half = y.shape[-1] // 2
        return m.b(y * 0.8 + torch.cat([-y[..., half:], y[..., :half]], -1) * 0.6)

    model = net(run, a=nn.Linear(3, 6), b=nn.Linear(6, 2))
    shrinks(model, steps(), {"a": [1, 4]}, expect={"a": (4, 3), "b": (2, 4)})
