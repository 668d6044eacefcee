"""Views and reshapes: axes are merged and split, and the sizes asked for in the code are followed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.graph.nets import free, image, net, shrinks, why_not
from torchpare import plan
from torchpare.graph import analyse
from torchpare.graph.rules.reshapes import factor_groups

FLATTENED = {
    "flatten": lambda m, y: y.flatten(1),
    "view by batch": lambda m, y: y.view(y.size(0), -1),
    "view of the rest": lambda m, y: y.reshape(-1, y.shape[1] * y.shape[2] * y.shape[3]),
    "view by attribute": lambda m, y: y.view(-1, m.flat),
    "view by a number of pixels": lambda m, y: y.view(-1, m.width * 9),
    "nn.Flatten": lambda m, y: nn.Flatten()(y),
    "numel": lambda m, y: y.view(y.shape[0], y[0].numel()),
}


@pytest.mark.parametrize("name", FLATTENED)
def test_a_channel_takes_all_its_pixels_out_of_a_linear_layer(name):
    flat = FLATTENED[name]
    model = net(
        lambda m, x: m.b(flat(m, torch.relu(m.a(x)))),
        attributes={"flat": 45, "width": 5},
        a=nn.Conv2d(3, 5, 1),
        b=nn.Linear(45, 2),
    )
    x = image(size=3)
    assert free(model, x, "a") == 5, why_not(model, x, "a")
    shrinks(model, x, {"a": [1, 3]}, expect={"a": (3, 3), "b": (2, 27)})
    if "attribute" in name:
        assert model.flat == 27
    if "pixels" in name:
        assert model.width == 3


def test_a_flat_size_typed_as_a_number_freezes_and_says_so():
    model = net(lambda m, x: m.b(m.a(x).view(-1, 45)), a=nn.Conv2d(3, 5, 1), b=nn.Linear(45, 2))
    x = image(size=3)
    assert free(model, x, "a") == 0
    assert "number 45" in why_not(model, x, "a")
    assert "test_reshapes.py" in why_not(model, x, "a")


def shuffle(groups):
    def run(m, x):
        y = torch.relu(m.a(x))
        b, c, h, w = y.size()
        g = groups(m)
        y = y.view(b, g, c // g, h, w).transpose(1, 2).reshape(b, -1, h, w)
        return m.b(y)

    return net(run, attributes={"groups": 2}, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1))


@pytest.mark.parametrize("groups", [lambda m: 2, lambda m: m.groups], ids=["number", "attribute"])
def test_a_channel_shuffle_is_followed(groups):
    model, x = shuffle(groups), image()
    assert free(model, x, "a") == 6
    shrinks(model, x, {"a": [1, 4]}, expect={"a": (4, 3), "b": (2, 4)})
    assert model.groups == 2


def test_a_channel_shuffle_keeps_columns_with_their_filters():
    model = shuffle(lambda m: 2)
    before = model.b.weight.detach().clone()
    shrinks(model, image(), {"a": [0, 3]}, expect={"b": (2, 4)})
    order = torch.arange(6).view(2, 3).T.reshape(-1)  # b's column j reads a's filter order[j]
    kept = [j for j in range(6) if int(order[j]) not in (0, 3)]
    assert torch.equal(model.b.weight, before[:, kept])


@pytest.mark.parametrize(("groups", "next_groups"), [(2, 2), (2, 3), (3, 2)])
def test_shuffled_groups_are_dealt_out_to_the_groups_of_the_next_convolution(groups, next_groups):
    def run(m, x):
        y = m.a(m.stem(x))
        b, c, h, w = y.shape
        return m.head(m.b(y.view(b, m.groups, c // m.groups, h, w).transpose(1, 2).reshape(b, c, h, w)))

    model = net(
        run,
        attributes={"groups": groups},
        stem=nn.Conv2d(3, 6, 1),
        a=nn.Conv2d(6, 12, 1, groups=groups),
        b=nn.Conv2d(12, 6, 1, groups=next_groups),
        head=nn.Conv2d(6, 2, 1),
    )
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], image()).apply()
    assert report.largest_difference <= 1e-10
    assert report.parameters_after < report.parameters_before


def test_pixels_shuffled_by_hand_keep_whole_squares_of_channels():
    def run(m, x):
        y = m.a(x)
        b, c, h, w = y.shape
        y = y.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)
        return m.b(y)

    model = net(run, a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(3, 2, 1))
    x = image()
    assert shrinks(model, x, {"a": [4, 5, 6, 7]}, expect={"a": (8, 3), "b": (2, 2)}).exact


def test_heads_and_their_width_follow_their_attributes():
    def run(m, x):
        b, n, _ = x.shape
        q, k, v = m.qkv(x).view(b, n, 3, m.heads, m.dim).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
        return m.out(y.transpose(1, 2).reshape(b, n, m.heads * m.dim))

    model = net(run, attributes={"heads": 2, "dim": 4}, qkv=nn.Linear(5, 24), out=nn.Linear(8, 2))
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    assert free(model, x, "qkv") == 24
    head = [3 * 0 + i for i in range(4)]
    shrinks(
        model, x, {"qkv": head + [8 + i for i in head] + [16 + i for i in head]}, expect={"qkv": (12, 5), "out": (2, 4)}
    )
    assert (model.heads, model.dim) == (1, 4)


def test_a_size_that_code_computes_from_another_tensor_is_kept_equal():
    """The size of one tensor written into the shape of another."""

    def run(m, x):
        y, z = m.a(x), m.c(x)
        return m.b(y.view(y.size(0), z.size(1), *y.shape[2:])) + m.d(z)

    model = net(run, a=nn.Conv2d(3, 4, 1), c=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1), d=nn.Conv2d(4, 2, 1))
    for dropped in ({"a": [0]}, {"c": [0]}, {"a": [0], "c": [3]}):
        both = len(dropped) == 2
        removal = analyse(model, image()).decide(
            {name: {"weight": torch.tensor([i not in gone for i in range(4)]).view(4, 1, 1, 1),
                    "bias": torch.tensor([i not in gone for i in range(4)])} for name, gone in dropped.items()}
        )  # fmt: skip
        assert removal.empty != both


shapes = st.lists(st.integers(1, 6), min_size=0, max_size=4)


@given(shapes, st.randoms())
def test_factor_groups_pair_axes_of_equal_product(factors, dice):
    """Two ways of multiplying neighbours of one list of factors together."""

    def merged():
        result = []
        for factor in factors:
            if result and dice.random() < 0.5:
                result[-1] *= factor
            else:
                result.append(factor)
        return tuple(result)

    old, new = merged(), merged()
    groups = factor_groups(old, new)
    assert [axis for axes, _ in groups for axis in axes] == list(range(len(old)))
    assert [axis for _, axes in groups for axis in axes] == list(range(len(new)))
    for axes_in, axes_out in groups:
        assert math.prod(old[axis] for axis in axes_in) == math.prod(new[axis] for axis in axes_out)


def test_factor_groups_are_as_small_as_they_come():
    assert factor_groups((2, 6, 4), (2, 24)) == [([0], [0]), ([1, 2], [1])]
    assert factor_groups((2, 24), (2, 6, 4)) == [([0], [0]), ([1], [1, 2])]
    assert factor_groups((4, 6), (6, 4)) == [([0, 1], [0, 1])]
    assert factor_groups((2, 3), (2, 3)) == [([0], [0]), ([1], [1])]
    assert factor_groups((), (1,)) == [([], [0])]
