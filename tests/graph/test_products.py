"""Convolutions and linear layers: which channels can go, and that what is left is the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.graph.nets import free, image, net, same_fate, shrinks, why_not
from torchpare import plan
from torchpare.graph import analyse

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def chain(m, x):
    return m.b(torch.relu(m.a(x)))


def signal(dimensions, channels=3):
    return torch.randn(2, channels, *[5] * dimensions, dtype=torch.float64)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_filter_goes_with_its_reader_column(dimensions):
    model = net(chain, a=CONV[dimensions](3, 5, 3, padding=1), b=CONV[dimensions](5, 2, 3))
    x = signal(dimensions)
    assert free(model, x, "a") == 5
    shrinks(model, x, {"a": [1, 4]}, expect={"a": (3, 3), "b": (2, 3)})
    assert model.a.out_channels == model.b.in_channels == 3


def test_the_inputs_and_outputs_of_the_model_stay():
    model = net(chain, a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    assert free(model, image(), "b") == 0
    assert "output of the model" in why_not(model, image(), "b")
    assert analyse(model, image()).reads("a").size == 0


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_transposed_convolution_makes_channels_along_its_second_axis(dimensions):
    model = net(chain, a=TRANSPOSED[dimensions](3, 5, 2, stride=2), b=CONV[dimensions](5, 2, 1))
    x = signal(dimensions)
    shrinks(model, x, {"a": [0, 2]}, expect={"a": (3, 3), "b": (2, 3)})
    assert model.a.out_channels == 3


def test_a_transposed_convolution_reads_along_its_first_axis():
    model = net(chain, a=nn.Conv2d(3, 6, 1), b=nn.ConvTranspose2d(6, 2, 2))
    shrinks(model, image(), {"a": [5]}, expect={"a": (5, 3), "b": (5, 2)})


def grouped(m, x):
    return m.c(torch.relu(m.b(torch.relu(m.a(x)))))


def test_the_groups_of_a_convolution_may_lose_different_channels():
    model = net(grouped, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 6, 3, padding=1, groups=2), c=nn.Conv2d(6, 2, 1))
    x = image()
    assert free(model, x, "a") == 8
    assert free(model, x, "b") == 6
    shrinks(model, x, {"a": [0, 7], "b": [1, 3]}, expect={"a": (6, 3), "b": (4, 3), "c": (2, 4)})
    assert model.b.groups == 2


def test_the_groups_of_a_convolution_keep_equally_many():
    model = net(grouped, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 6, 1, groups=2), c=nn.Conv2d(6, 2, 1))
    report = shrinks(model, image(), {"a": [0, 1, 7]}, expect={"a": (6, 3), "b": (6, 3), "c": (2, 6)})
    assert report.exact


def test_groups_that_read_the_input_stay_as_many():
    model = net(chain, a=nn.Conv2d(6, 6, 1, groups=3), b=nn.Conv2d(6, 2, 1))
    shrinks(model, image(6), {"a": [0, 2, 4]}, expect={"a": (3, 2), "b": (2, 3)})
    assert model.a.groups == 3


def test_a_whole_group_can_go():
    model = net(grouped, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 8, 1, groups=4), c=nn.Conv2d(8, 2, 1))
    shrinks(model, image(), {"a": [2, 3], "b": [2, 3]}, expect={"a": (6, 3), "b": (6, 2), "c": (2, 6)})
    assert model.b.groups == 3


def test_a_depthwise_convolution_goes_channel_by_channel():
    model = net(grouped, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 6, 3, padding=1, groups=6), c=nn.Conv2d(6, 2, 1))
    x = image()
    assert same_fate(model, x, "a", "b")
    shrinks(model, x, {"a": [1, 2], "b": [1, 2]}, expect={"a": (4, 3), "b": (4, 1), "c": (2, 4)})
    assert model.b.groups == model.b.in_channels == model.b.out_channels == 4


def test_a_depthwise_multiplier_makes_slots_that_agree_in_number():
    model = net(grouped, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 8, 3, padding=1, groups=4), c=nn.Conv2d(8, 2, 1))
    shrinks(model, image(), {"b": [0, 3, 4, 7]}, expect={"a": (4, 3), "b": (4, 1), "c": (2, 4)})
    assert model.b.groups == 4


@pytest.mark.parametrize("groups", [2, 3])
def test_a_grouped_transposed_convolution_reads_by_group(groups):
    model = net(grouped, a=nn.Conv2d(3, 6, 1), b=nn.ConvTranspose2d(6, 6, 2, groups=groups), c=nn.Conv2d(6, 2, 1))
    dropped = [0, 5] if groups == 2 else [0, 3, 5]
    rows = 6 - len(dropped)
    shrinks(model, image(), {"a": dropped}, expect={"a": (rows, 3), "b": (rows, 6 // groups), "c": (2, 6)})


def test_a_grouped_transposed_convolution_makes_equally_many_in_each_group():
    def reader_only(model, keep):
        return {"c": {"weight": torch.tensor(keep).view(1, 6, 1, 1)}}

    for keep, left in (([True, False, True, True, True, True], 6), ([True, False, True, True, True, False], 4)):
        model = net(grouped, a=nn.Conv2d(3, 6, 1), b=nn.ConvTranspose2d(6, 6, 2, groups=2), c=nn.Conv2d(6, 2, 1))
        removal = analyse(model, image()).decide(reader_only(model, keep))
        assert removal.shape(removal.space.values["c.weight"].uid)[1] == left


def test_a_depthwise_transposed_convolution_goes_channel_by_channel():
    model = net(grouped, a=nn.Conv2d(3, 6, 1), b=nn.ConvTranspose2d(6, 6, 2, groups=6), c=nn.Conv2d(6, 2, 1))
    shrinks(model, image(), {"a": [1, 2], "b": [1, 2]}, expect={"a": (4, 3), "b": (4, 1), "c": (2, 4)})
    assert model.b.groups == 4


def test_two_group_counts_in_a_row():
    model = net(
        lambda m, x: m.d(m.c(torch.relu(m.b(m.a(x))))),
        a=nn.Conv2d(3, 12, 1),
        b=nn.Conv2d(12, 12, 1, groups=2),
        c=nn.Conv2d(12, 6, 1, groups=3),
        d=nn.Conv2d(6, 2, 1),
    )
    shrinks(model, image(), {"b": [0, 1, 4, 6, 10, 11]}, expect={"b": (6, 6), "c": (6, 2)})


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5), (2, 3, 2, 5)])
def test_linear_layers_read_the_last_axis(shape):
    model = net(chain, a=nn.Linear(5, 6), b=nn.Linear(6, 2, bias=False))
    x = torch.randn(shape, dtype=torch.float64)
    assert free(model, x, "a") == 6
    shrinks(model, x, {"a": [0, 3]}, expect={"a": (4, 5), "b": (2, 4)})
    assert (model.a.out_features, model.b.in_features) == (4, 4)


def test_a_linear_layer_behind_a_permute_is_a_linear_layer():
    model = net(
        lambda m, x: m.c(torch.relu(m.b(m.a(x).permute(0, 2, 3, 1)))),
        a=nn.Conv2d(3, 6, 1),
        b=nn.Linear(6, 5),
        c=nn.Linear(5, 2),
    )
    x = image()
    assert free(model, x, "b") == 5
    shrinks(model, x, {"a": [2], "b": [1, 3]}, expect={"a": (5, 3), "b": (3, 5), "c": (2, 3)})


def test_the_axis_that_two_tensors_are_multiplied_over_is_one():
    def attention(m, x):
        q, k, v = m.q(x), m.k(x), m.v(x)
        return m.out(torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v)

    layers = {name: nn.Linear(5, 6) for name in "qkv"}
    model = net(attention, **layers, out=nn.Linear(6, 2))
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    assert same_fate(model, x, "q", "k")
    assert not same_fate(model, x, "q", "v")
    shrinks(
        model, x, {"q": [0, 1], "k": [0, 1], "v": [5]}, expect={"q": (4, 5), "k": (4, 5), "v": (5, 5), "out": (2, 5)}
    )


def test_a_layer_called_twice_keeps_what_both_calls_need():
    model = net(lambda m, x: m.c(m.b(m.b(m.a(x)))), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 5, 1), c=nn.Conv2d(5, 2, 1))
    x = image()
    assert same_fate(model, x, "a", "b")
    shrinks(model, x, {"a": [0], "b": [0]}, expect={"a": (4, 3), "b": (4, 4), "c": (2, 4)})


def test_tied_weights_stay_tied():
    model = net(
        lambda m, x: m.d(m.b(m.a(x)) + m.c(m.a(x))),
        a=nn.Linear(4, 6),
        b=nn.Linear(6, 5),
        c=nn.Linear(6, 5),
        d=nn.Linear(5, 2),
    )
    model.c.weight = model.b.weight
    x = torch.randn(3, 4, dtype=torch.float64)
    shrinks(model, x, {"a": [1], "b": [0, 2], "c": [0, 2]}, expect={"b": (3, 5), "c": (3, 5)})
    assert model.c.weight is model.b.weight


def test_an_embedding_keeps_its_rows_and_can_lose_columns():
    model = net(lambda m, x: m.out(m.words(x)), words=nn.Embedding(7, 6), out=nn.Linear(6, 2))
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert free(model, tokens, "words") == 6
    shrinks(model, tokens, {"words": [0, 4]}, expect={"words": (7, 4), "out": (2, 4)})
    assert model.words.embedding_dim == 4


def test_a_linear_layer_has_the_labels_of_what_it_reads_and_makes():
    model = net(chain, a=nn.Linear(3, 5), b=nn.Linear(5, 2))
    # One that stays, five between the two, two outputs: what is transposed in between has none of its own.
    assert analyse(model, torch.randn(4, 3, dtype=torch.float64)).size == 1 + 5 + 2


def twice(m, x):
    return torch.relu(m.b(torch.relu(x @ m.a.weight.t()))) @ m.a.weight.t().t() + m.c(x)


def unread(m, x):
    m.a.weight.t()  # nobody looks at it
    return m.b(torch.relu(m.a(x)))


@pytest.mark.parametrize(
    ("forward", "rows"), [(twice, {"a": (4, 3), "b": (4, 4), "c": (3, 3)}), (unread, {"a": (4, 3), "b": (6, 4)})]
)
def test_a_transposed_weight_is_cut_wherever_it_is_read(forward, rows):
    layers = {"c": nn.Linear(3, 3)} if forward is twice else {}
    model = net(forward, a=nn.Linear(3, 6, bias=False), b=nn.Linear(6, 6), **layers)
    shrinks(
        model, torch.randn(4, 3, dtype=torch.float64), {"a": [1, 4]} | ({"b": [1, 4]} if layers else {}), expect=rows
    )


def test_a_transposed_weight_may_be_the_place_of_a_result():
    def written(m, x):
        turned = m.w.t()
        with torch.no_grad():
            torch.mm(m.u, m.v, out=turned)
        return m.b(torch.relu(m.a(x) @ turned))

    attributes = {
        name: nn.Parameter(torch.randn(shape)) for name, shape in (("w", (5, 6)), ("u", (6, 2)), ("v", (2, 5)))
    }
    model = net(written, a=nn.Linear(3, 6), b=nn.Linear(5, 2), attributes=attributes)
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], torch.randn(4, 3, dtype=torch.float64)).apply()
    assert tuple(model.w.shape) == (model.v.shape[1], model.u.shape[0]) == (model.b.in_features, model.a.out_features)
    assert model.a.out_features < 6


def squared(m, x):
    y = m.a(x).relu()
    return m.c((y[:, :, None] * y[:, None]).flatten(1))


def crossed(m, x):
    y = torch.cat([m.a(x), m.b(x)], 1)
    return m.c((y[:, :, None] * y[:, None]).flatten(1))


@pytest.mark.parametrize(("run", "b", "width"), [(squared, 0, 3), (crossed, 4, 5)])
def test_channels_times_themselves_go_with_all_their_products(run, b, width):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = net(run, a=nn.Linear(3, 6), b=nn.Linear(3, max(b, 1)), c=nn.Linear((6 + b) ** 2, 2))
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    assert (model.a.out_features, model.c.in_features) == (3, width**2)
