"""Sizes that the model's code compares, or computes with as numbers: they stay what they are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.graph.nets import free, image, net, shrinks, why_not
from torchpare import load, plan, save
from torchpare.graph import analyse


def steps():
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def between(middle, **attributes):
    return net(lambda m, x: m.b(middle(m, m.a(x))), attributes=attributes, a=nn.Linear(3, 6), b=nn.Linear(6, 2))


def halved(model, x=None):
    made = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], steps() if x is None else x)
    report = made.apply()
    assert report.largest_difference <= 1e-10
    return made


AS_NUMBERS = {
    "divided": lambda m, y: y / y.shape[-1],
    "a power and one": lambda m, y: y * (y.shape[-1] ** -0.5 + 1),
    "a product of roots": lambda m, y: y * (y.shape[-1] ** -0.5 * y.shape[1] ** 0.5),
    "a root that is added": lambda m, y: y + math.sqrt(y.size(2)),
    "a root in two ways": lambda m, y: (y * (root := math.sqrt(y.size(2)))).clamp(max=root),
    "a root that becomes another number": lambda m, y: y * (root := math.sqrt(y.size(2))) + math.exp(root),
    "a logarithm": lambda m, y: y * math.log(y.size(2)),
    "a whole root": lambda m, y: y * math.isqrt(y.size(2)),
    "half of it, in a power": lambda m, y: y * math.pow(y.size(2) / 2, 0.5),
    "a root that is compared": lambda m, y: y * root if (root := y.size(2) ** 0.5) > 1 else y,
    "a root of what is read twice": lambda m, y: y / math.sqrt(y.size(2)) + y,
    "a root after what is not linear": lambda m, y: torch.tanh(y) / math.sqrt(y.size(2)),
    "a root before a root": lambda m, y: y / math.sqrt(y.size(2)) / math.sqrt(y.size(2)),
    "the absolute root": lambda m, y: y * abs(y.size(2) ** 0.5),
    "a root in place": lambda m, y: y.clone().mul_(y.size(2) ** 0.5),
    "divided by what is scaled": lambda m, y: y.size(2) ** 0.5 / (y * y + 1),
    "multiplied": lambda m, y: y.shape[2] * y,
    "added": lambda m, y: y + y.shape[-1],
    "float": lambda m, y: y * float(y.shape[-1]),
    "an attribute": lambda m, y: torch.tanh(y) * m.width**-0.5,
    "in place": lambda m, y: y.clone().div_(y.shape[-1]),
    "torch.mul": lambda m, y: torch.mul(y, y.shape[-1]),
    "half of it": lambda m, y: y * (y.shape[-1] * 0.5),
    "an absolute value": lambda m, y: y * abs(y.shape[-1]),
    "a shift": lambda m, y: y * (y.shape[-1] >> 1),
    "a limit": lambda m, y: y.clamp(max=y.shape[-1]),
    "filled in": lambda m, y: y.masked_fill(y > 0.1, y.shape[-1]),
    "filled": lambda m, y: y * torch.full((1,), y.shape[-1]),
}


@pytest.mark.parametrize("name", AS_NUMBERS)
def test_a_width_that_is_a_number_in_the_function_stays(name):
    model = between(AS_NUMBERS[name], width=6) if "attribute" in name else between(AS_NUMBERS[name])
    if "attribute" in name:  # it is a number of its own, until something says that it is the width
        model.run = lambda m, x: m.b(AS_NUMBERS[name](m, m.a(x)).view(2, 5, m.width))
    made = halved(model)
    assert made.removal.empty
    assert made.groups[0].after == made.groups[0].before == 6
    assert "test_numbers.py" in made.groups[0].why


def test_an_attribute_that_is_only_a_number_holds_nothing_back():
    model = between(lambda m, y: y * m.temperature**-0.5, temperature=6)
    assert halved(model).groups[0].after == 3
    assert model.temperature == 6


def test_sizes_of_axes_that_stay_may_be_numbers():
    model = between(lambda m, y: y * y.shape[1] ** -0.5 + y.size(0))
    shrinks(model, steps(), {"a": [1]}, expect={"a": (5, 3), "b": (2, 5)})


def checked(m, y):
    assert y.shape[-1] == m.width, "not as wide as it was built"
    return y


def test_an_attribute_that_is_compared_with_a_width_follows_it():
    model = between(checked, width=6)
    halved(model)
    assert (model.width, model.a.out_features) == (3, 3)


def test_a_width_compared_with_a_typed_number_stays():
    def run(m, y):
        return y * 2 if y.shape[-1] == 6 else y

    made = halved(between(run))
    assert made.removal.empty
    assert "test_numbers.py" in made.groups[0].why


def test_a_width_that_was_another_than_a_number_stays_another():
    """A branch that was not taken is not taken afterwards: three channels of six would have taken it."""

    def run(m, y):
        return y * 2 if y.shape[-1] == 3 else y

    model = between(run)
    halved(model)
    assert model.a.out_features == 4


def test_two_widths_that_were_compared_stay_equal():
    def run(m, x):
        y, z = m.a(x), m.c(x)
        if y.shape[-1] == z.shape[-1]:
            z = z * 2
        return m.b(y) + m.d(z)

    model = net(run, a=nn.Linear(3, 6), c=nn.Linear(3, 6), b=nn.Linear(6, 2), d=nn.Linear(6, 2))
    made = plan(model, [{"sparsity": 0.5, "op_names": ["a"], "structures": ["mlp"]}], steps())
    assert made.apply().largest_difference <= 1e-10
    assert model.a.out_features == model.c.out_features == 3


def test_two_widths_that_differed_stay_different():
    def run(m, x):
        y, z = m.a(x), m.c(x)
        return m.b(y) + (m.d(z) * 3 if y.shape[-1] == z.shape[-1] else m.d(z))

    model = net(run, a=nn.Linear(3, 8), c=nn.Linear(3, 4), b=nn.Linear(8, 2), d=nn.Linear(4, 2))
    made = plan(model, [{"sparsity": 0.5, "op_names": ["a"], "structures": ["mlp"]}], steps())
    assert made.apply().largest_difference <= 1e-10
    assert model.a.out_features != model.c.out_features


def test_comparisons_are_remembered_with_where_they_were_made():
    space = analyse(between(checked, width=6), steps())
    (site,) = [
        where for (left, right, equal), where in space.comparisons.items() if "width" in f"{left}{right}" and equal
    ]
    assert site.startswith("test_numbers.py:")


def test_the_default_scale_of_attention_is_a_number():
    """``scaled_dot_product_attention`` divides by the root of a width; without that it would be another function."""

    def run(m, x):
        y = m.qkv(x)
        q, k, v = y.unflatten(-1, (3, m.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return m.b(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model = net(run, qkv=nn.Linear(3, 24), b=nn.Linear(8, 2), attributes={"heads": 2})
    made = plan(model, [{"sparsity": 0.5, "structures": ["head_dim"]}], steps())
    assert made.apply().largest_difference <= 1e-10


def test_attention_may_be_given_its_tensors_by_name():
    def run(m, x):
        q, k, v = m.qkv(x).unflatten(-1, (3, m.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return m.b(torch.nn.functional.scaled_dot_product_attention(query=q, key=k, value=v).transpose(1, 2).flatten(2))

    model = net(run, qkv=nn.Linear(3, 24), b=nn.Linear(8, 2), attributes={"heads": 2})
    halved(model)
    assert model.qkv.out_features < 24


def test_a_range_as_long_as_a_width_keeps_it():
    made = halved(between(lambda m, y: y * torch.arange(y.shape[-1])))
    assert made.removal.empty


ASKED = {
    "new": lambda x, n: x.new(2, 5, n).zero_(),
    "new, of data": lambda x, n: x.data.new(2, 5, n).fill_(0.5),
    "new, by a shape": lambda x, n: x.new(torch.Size([2, 5, n])).zero_(),
    "tile": lambda x, n: x.new_zeros(1).tile(2, 5, n),
}


@pytest.mark.parametrize("name", ASKED)
def test_old_ways_to_ask_for_a_shape_follow_the_number(name):
    model = between(lambda m, y: y * 2 + ASKED[name](y, m.width), width=6)
    halved(model)
    assert (model.width, model.a.out_features) == (3, 3)


def test_new_is_also_given_values():
    model = between(lambda m, y: y + y.new([2.0]) + y.new(y.new_ones(1)))
    halved(model)
    assert model.a.out_features == 3


@pytest.mark.parametrize("make", [torch.Tensor, torch.DoubleTensor, lambda *sizes: torch.Tensor(torch.Size(sizes))])
def test_a_constructor_whose_sizes_nobody_sees_holds_them(make):
    model = between(lambda m, y: y + make(2, 5, m.width).zero_(), width=6)
    made = halved(model)
    assert made.removal.empty
    assert "test_numbers.py" in why_not(model, steps(), "a")


ROUNDED = {
    "rounded": round,
    "floor": math.floor,
    "ceiling": math.ceil,
    "plus": lambda n: +n,
    "absolute": abs,
    "twice and half": lambda n: (n << 1) >> 1,
    "divmod": lambda n: divmod(n, 1)[0],
}


@pytest.mark.parametrize("name", ROUNDED)
def test_a_size_that_is_made_a_whole_number_again_is_the_same_size(name):
    model = between(lambda m, y: y + torch.zeros(2, 5, ROUNDED[name](m.width)), width=6)
    halved(model)
    assert (model.width, model.a.out_features) == (3, 3)


PARTS = {
    "int": lambda n: int(n * 0.5),
    "a third, not quite": lambda n: int(n * 0.3),
    "divided by what does not divide it": lambda n: int(n / 5),
    "divided by a fraction": lambda n: int(n / 2.5),
    "floor": lambda n: math.floor(n * 0.4),
    "ceiling": lambda n: math.ceil(n / 3),
    "rounded": lambda n: round(n * 0.3),
}


class Parted(nn.Module):
    """The first part of the channels, and the rest of them, read by one layer each; ``int`` is what this file calls."""

    def __init__(self, part, *, attribute):
        super().__init__()
        self.part, self.attribute, self.n = part, attribute, 12
        first = part(12)
        self.a, self.b, self.c = nn.Linear(3, 12), nn.Linear(first, 2), nn.Linear(12 - first, 2)

    def forward(self, x):
        y = torch.relu(self.a(x))
        first = self.part(self.n if self.attribute else y.shape[-1])
        return self.b(y[..., :first]) + self.c(y[..., first:])


@pytest.mark.parametrize("attribute", [False, True], ids=["of a shape", "of an attribute"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_size_follows_it(name, attribute):
    torch.manual_seed(0)
    part = PARTS[name]
    model = Parted(part, attribute=attribute).double()
    halved(model)
    assert model.a.out_features < 9
    assert part(model.n if attribute else model.a.out_features) == model.b.in_features < part(12)
    assert model(steps()).shape == (2, 5, 2)


def test_sizes_added_multiplied_and_divided_whole_are_followed():
    def run(m, y):
        third = y.shape[-1] // 3
        return torch.cat([y[..., : 2 * third], y[..., y.shape[-1] - third :]], -1).view(2, -1, third + 2 * third)

    model = between(run)
    shrinks(model, steps(), {"a": [0, 2, 4]}, expect={"a": (3, 3), "b": (2, 3)})


def test_a_size_that_becomes_a_tensor_is_a_number():
    def run(m, x):
        y = m.a(x)
        return m.b(y / torch.sqrt(torch.tensor(y.shape[1])) + torch.tensor([y.shape[1], 1.0]).sum())

    model = net(run, a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    (group,) = plan(model, [{"sparsity": 0.4, "structures": ["channels"]}], image()).groups
    assert (group.after, group.before) == (5, 5)
    assert "the code compares size(1) with 5" in (group.why or "")


BACKWARDS = {
    "the last n": lambda m, y: m.b(y[:, -m.n :]) + m.c(y[:, : m.n]),
    "all but the last n": lambda m, y: m.b(y[:, -m.n :]) + m.c(y[:, : -m.n]),
    "half of what there is": lambda m, y: m.b(y[:, -(y.shape[1] // 2) :]) + m.c(y[:, : y.shape[1] // 2]),
}


@pytest.mark.parametrize("name", BACKWARDS)
def test_a_slice_that_counts_from_the_back_follows_its_number(name):
    cut = BACKWARDS[name]
    model = net(
        lambda m, x: cut(m, m.a(x)), a=nn.Linear(3, 16), b=nn.Linear(8, 2), c=nn.Linear(8, 2), attributes={"n": 8}
    )
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert free(model, x, "a") == 16, why_not(model, x, "a")
    dropped = {"a": [0, 3, 7, 9, 14, 15]}
    shrinks(model, x, dropped, expect={"a": (10, 3), "b": (2, 5), "c": (2, 5)})
    assert model.n == (5 if "n" in name.split() else 8)


def test_a_difference_of_numbers_that_counts_from_the_back():
    model = net(
        lambda m, x: m.b(m.a(x)[..., m.few - m.all :]),
        a=nn.Linear(3, 12),
        b=nn.Linear(8, 2),
        attributes={"few": 4, "all": 12},
    )
    halved(model)
    assert model.b.in_features == model.all - model.few


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_a_layer_keeps_the_size_that_the_code_takes_as_a_number(tmp_path, again):
    """``embedding_dim`` follows the table, but not where the function would change with it."""

    def build():
        return net(
            lambda m, x: m.out(torch.relu(m.mid(m.words(x) * math.sqrt(m.words.embedding_dim)))),
            words=nn.Embedding(7, 12),
            mid=nn.Linear(12, 8),
            out=nn.Linear(8, 3),
        )

    model, tokens = build(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    halved(model, tokens)
    if again:
        halved(model, tokens)
    assert model.words.weight.shape == (7, 3 if again else 6)
    assert model.words.embedding_dim == 12
    assert model.mid.in_features == model.words.weight.shape[1]
    save(model, tmp_path / "small.safetensors")
    fresh = build()
    load(fresh, tmp_path / "small.safetensors")
    assert fresh.words.embedding_dim == 12
    assert torch.equal(fresh(tokens), model(tokens))


def test_sizes_found_just_as_large_stay_equal():
    def run(m, x):
        x = m.a(x)
        if x.shape[-1] < m.width:
            x = torch.nn.functional.pad(x, (0, m.width - x.shape[-1]))
        return m.c(x @ m.b.weight)

    model = net(run, a=nn.Linear(7, 12), b=nn.Linear(12, 12), c=nn.Linear(12, 5), attributes={"width": 12})
    x = torch.randn(3, 7, dtype=torch.float64)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    assert (model.a.out_features, model.width) == (6, 6)
