"""Entries looked up or written by number: the axis that is addressed stays whole, channels on the others follow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.nets import free, net, same_fate, shrinks, why_not
from torchpare import plan

ORDER = torch.tensor([2, 0, 1, 1])
MASK = torch.tensor([True, False, True, True, False])
TABLE = torch.tensor([[0, 1, 2, 3, 4, 0], [4, 3, 2, 1, 0, 0]])


def steps():
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def between(middle, *, reads=6, **more):
    return net(lambda m, x: m.b(middle(m, torch.tanh(m.a(x)))), a=nn.Linear(3, 6), b=nn.Linear(reads, 2), **more)


ALONG_STEPS = {
    "index": lambda m, y: y[:, ORDER],
    "two indices": lambda m, y: y[torch.tensor([[0], [1]]), ORDER],
    "apart": lambda m, y: y.unsqueeze(1)[torch.tensor([0, 1]), :, torch.tensor([2, 0])],
    "a boolean mask": lambda m, y: y[:, MASK],
    "a mask over two axes": lambda m, y: y[MASK.expand(2, -1)],
    "index_select": lambda m, y: torch.index_select(y, 1, ORDER),
    "gather": lambda m, y: y.gather(1, ORDER[None, :, None].expand(2, -1, y.shape[-1])),
    "take_along_dim": lambda m, y: torch.take_along_dim(y, ORDER[None, :, None].expand(2, -1, y.shape[-1]), 1),
    "topk": lambda m, y: y.topk(3, dim=1).values,
    "sort": lambda m, y: torch.sort(y, dim=1, descending=True)[0],
    "kthvalue": lambda m, y: y.kthvalue(2, 1).values,
    "median": lambda m, y: y.median(dim=1).values,
    "cummax": lambda m, y: y.cummax(1).values,
    "cumprod": lambda m, y: y.cumprod(1),
    "logcumsumexp": lambda m, y: y.logcumsumexp(1),
    "index_put": lambda m, y: y.index_put((torch.tensor([0, 1]), torch.tensor([2, 3])), y[:, 0] * 2),
    "an assignment": lambda m, y: _assigned(y, 1),
    "index_add": lambda m, y: y.index_add(1, ORDER, y[:, :4].exp()),
    "index_copy": lambda m, y: y.index_copy(1, torch.tensor([3, 0]), y[:, 1:3] * 2),
    "index_fill": lambda m, y: y.index_fill(1, torch.tensor([3, 0]), 0.0),
    "scatter": lambda m, y: torch.zeros_like(y).scatter(1, ORDER[None, :, None].expand(2, -1, y.shape[-1]), y[:, :4]),
    "scatter_add": lambda m, y: y.scatter_add(1, ORDER[None, :, None].expand_as(y[:, :4]), y[:, :4]),
    "slice_scatter": lambda m, y: torch.slice_scatter(y, y[:, :2] * 3, 1, 2, 4),
    "select_scatter": lambda m, y: torch.select_scatter(y, y[:, 0] * 3, 1, 2),
    "fft": lambda m, y: torch.view_as_real(torch.fft.rfft(y, dim=1)).sum(-1),
}


def _assigned(y, axis):
    y = y.clone()
    y.select(axis, 1).mul_(2)
    y[:, 3] = y[:, 0] * 0.5
    return y


@pytest.mark.parametrize("name", ALONG_STEPS)
def test_channels_are_carried_past_a_look_up_of_steps(name):
    model, x = between(ALONG_STEPS[name]), steps()
    assert free(model, x, "a") == 6, why_not(model, x, "a")
    shrinks(model, x, {"a": [1, 4]}, expect={"a": (4, 3), "b": (2, 4)})


ALONG_CHANNELS = {
    "index": (lambda m, y: y[..., ORDER], 4),
    "index_select": (lambda m, y: y.index_select(-1, ORDER), 4),
    "gather": (lambda m, y: y.gather(-1, ORDER.expand(2, 5, -1)), 4),
    "topk": (lambda m, y: y.topk(3).values, 3),
    "argsort": (lambda m, y: y.argsort(-1).to(y), 6),
    "cumprod": (lambda m, y: y.cumprod(-1), 6),
    "index_fill": (lambda m, y: y.index_fill(2, ORDER, 1.0), 6),
    "index_add": (lambda m, y: y.index_add(2, ORDER, y.new_ones(2, 5, 4)), 6),
    "scatter": (lambda m, y: y.scatter(2, ORDER.expand(2, 5, -1), 1.0), 6),
    "tril": (lambda m, y: y.tril(), 6),
    "fft": (lambda m, y: torch.fft.rfft(y).abs(), 4),
}


@pytest.mark.parametrize("name", ALONG_CHANNELS)
def test_channels_that_are_looked_up_by_number_stay_and_the_operator_is_named(name):
    middle, reads = ALONG_CHANNELS[name]
    model = between(middle, reads=reads)
    assert free(model, steps(), "a") == 0
    assert "test_indexing.py" in why_not(model, steps(), "a")


def test_what_is_written_somewhere_lives_and_dies_with_it():
    """Slices of one tensor put into another by number: off that axis they lie on top of each other."""
    index = ORDER[None, :, None]
    for write in (
        lambda y, z: y.index_add(1, ORDER, z[:, :4]),
        lambda y, z: y.scatter_add(1, index.expand_as(z[:, :4]), z[:, :4]),
        lambda y, z: torch.slice_scatter(y, z[:, :2], 1, 1, 3),
        lambda y, z: torch.select_scatter(y, z[:, 2], 1, 1),
        lambda y, z: y.index_put((torch.tensor([0, 1]), torch.tensor([2, 3])), z[:, 0]),
    ):
        model = net(
            lambda m, x, write=write: m.b(write(m.a(x), m.c(x))),
            a=nn.Linear(3, 6),
            c=nn.Linear(3, 6),
            b=nn.Linear(6, 2),
        )
        assert same_fate(model, steps(), "a", "c")
        shrinks(model, steps(), {"a": [0, 2], "c": [0, 2]}, expect={"a": (4, 3), "c": (4, 3), "b": (2, 4)})


def test_a_table_indexed_by_an_index_of_two_axes_keeps_its_rows_and_carries_its_columns():
    """The relative position bias of window attention: a table of rows by number, a column for each head."""
    model = net(
        lambda m, x: m.b(m.a(x) + m.table[TABLE[:, :5]].sum(0)),
        a=nn.Linear(3, 6), b=nn.Linear(6, 2), attributes={"table": nn.Parameter(torch.randn(5, 6))},
    )  # fmt: skip
    shrinks(model, steps(), {"a": [5]}, expect={"a": (5, 3), "b": (2, 5)})
    assert tuple(model.table.shape) == (5, 5)


def test_messages_along_the_edges_of_a_graph_carry_channels():
    source, target = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 0, 2])

    def run(m, x):
        x = m.a(x)
        return m.b(torch.zeros_like(x).index_add_(0, target, F.elu(x[source])))

    model = net(run, a=nn.Linear(3, 6), b=nn.Linear(6, 2))
    x = steps()[0]
    shrinks(model, x, {"a": [0, 5]}, expect={"a": (4, 3), "b": (2, 4)})


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_the_columns_of_an_embedding_bag_are_channels_and_its_rows_stay(mode):
    words = torch.tensor([[1, 0, 4], [3, 3, 2]])
    model = net(lambda m, x: m.b(m.a(x)), a=nn.EmbeddingBag(5, 6, mode=mode), b=nn.Linear(6, 2))
    assert free(model, words, "a") == 6
    made = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], words)
    assert made.apply().largest_difference <= 1e-10
    assert (tuple(model.a.weight.shape), tuple(model.b.weight.shape)) == ((5, 3), (2, 3))


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_rows_of_an_embedding_that_are_cut_to_a_length_lose_columns_too(norm):
    words = torch.tensor([[1, 0, 4], [3, 3, 2]])
    model = net(lambda m, x: m.b(m.a(x)), a=nn.Embedding(5, 6, max_norm=0.7, norm_type=norm), b=nn.Linear(6, 2))
    made = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], words)
    report = made.apply()
    assert report.largest_difference <= 1e-10
    assert report.exact
    assert (tuple(model.a.weight.shape), tuple(model.b.weight.shape)) == ((5, 3), (2, 3))
    assert model.a.weight.norm(norm, dim=1).max() > 0.7  # the proof leaves the model's own rows as they were
