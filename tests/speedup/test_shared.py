"""Layers registered under two names, tied weights, and forward passes that write on their model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.nets import image, keep_without, net
from tests.networks.oracles import exact_output, fingerprint, masked_by_hand, relative
from torchpare import plan
from torchpare.graph import analyse
from torchpare.speedup import ModelSpeedup
from torchpare.speedup.runs import run_exact

KEEP = keep_without(6, 1, 4)
FILTERS = {"weight": KEEP.view(6, 1, 1, 1), "bias": KEEP}


def registered_twice():
    block = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
    stem, head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
    return net(
        lambda m, x: m.head(m.both(m.one(m.stem(x)))), stem=stem, one=block, both=nn.Sequential(block, block), head=head
    )


def test_running_a_model_leaves_modules_with_two_names_as_they_were():
    model = registered_twice()
    before = fingerprint(model)
    run_exact(model, image(), dtype=torch.float32)
    assert fingerprint(model) == before


def test_a_module_with_two_names_is_cut_once():
    model, x = registered_twice(), image()
    dense = registered_twice()
    masks = analyse(model, x).group_masks({"stem": FILTERS, "one.0": FILTERS})
    report = ModelSpeedup(model, x, masks).speedup_model()
    assert report.exact
    assert model.one is model.both[0]
    assert model.one[0].weight.shape == (4, 4, 1, 1)
    assert (
        relative(
            exact_output(
                masked_by_hand(dense, {"stem": FILTERS, "one.0": FILTERS, "one.1": {"weight": KEEP, "bias": KEEP}}), x
            ),
            exact_output(model, x),
        )
        <= 1e-10
    )


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_mask_of_a_tied_weight_counts_under_either_name(name):
    model = net(
        lambda m, x: m.head(m.b(torch.sigmoid(m.a(x)))),
        a=nn.Conv2d(3, 3, 1, bias=False),
        b=nn.Conv2d(3, 3, 1, bias=False),
        head=nn.Conv2d(3, 2, 1),
    )
    model.b.weight = model.a.weight
    scattered = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 0]], dtype=torch.bool).view(3, 3, 1, 1)
    ModelSpeedup(model, image(), {name: {"weight": scattered}}).speedup_model()
    assert model.a.weight is model.b.weight
    assert not model.a.weight[~scattered].any()
    assert model.a.weight[scattered].all()


def test_a_forward_pass_that_keeps_tensors_on_the_model_keeps_none_of_ours():
    def run(m, x):
        if m.table is None:
            m.table = torch.ones(1, m.a.out_channels, 1, 1, dtype=x.dtype)
        m.last = F.relu(m.a(x))
        return m.b(m.last * m.table)

    model = net(run, attributes={"table": None, "last": None}, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1))
    ModelSpeedup(model, image(), {"a": FILTERS}).speedup_model()
    assert (model.table, model.last) == (None, None)
    model(image())
    assert model.table.shape[1] in (4, 6)


def test_writing_pixels_in_place_is_no_secret_constant():
    def run(m, x):
        y = F.relu(m.a(x))
        y[:, :, 0, 0] = 1.0
        return m.b(y)

    model, x = net(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1)), image()
    dense = net(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1))
    masks = analyse(model, x).group_masks({"a": FILTERS})
    assert ModelSpeedup(model, x, masks).speedup_model().exact
    assert relative(exact_output(masked_by_hand(dense, masks), x), exact_output(model, x)) <= 1e-10


@pytest.mark.parametrize("activation", [lambda y: y.clamp(min=0.3), lambda y: 1 / (1 + y.abs()), torch.cos, torch.exp])
def test_what_turns_zero_into_something_is_masked_at_its_readers_too(activation):
    def run(m, x):
        return m.b(activation(m.a(x)))

    model, dense = (net(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 3, padding=1)) for _ in range(2))
    x = image()
    masks = analyse(model, x).group_masks({"a": FILTERS})
    report = ModelSpeedup(model, x, masks).speedup_model()
    assert (report.exact, report.folded) == (True, ())
    assert relative(exact_output(masked_by_hand(dense, masks), x), exact_output(model, x)) <= 1e-10


def test_a_first_state_that_is_a_parameter_is_masked_though_a_layer_reads_it_too():
    """Slots: read by the queries like a weight, and carried on by the cell like a value."""

    class Slots(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Parameter(torch.randn(1, 3, 12))
            self.keys, self.queries = nn.Linear(7, 12), nn.Linear(12, 12)
            self.cell, self.head = nn.GRUCell(12, 12), nn.Linear(12, 5)

        def forward(self, x):
            keys, slots = self.keys(x), self.first.expand(len(x), -1, -1)
            for _ in range(2):
                scores = (self.queries(slots) @ keys.mT).softmax(1)
                slots = self.cell((scores @ keys).flatten(0, 1), slots.flatten(0, 1)).view(len(x), 3, -1)
            return self.head(slots)

    torch.manual_seed(0)
    model, x = Slots().eval(), torch.randn(2, 6, 7)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    assert report.output_change > 1e-3
    assert model.first.shape == (1, 3, 6)
