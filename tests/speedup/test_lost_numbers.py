"""Numbers that the code works out of a size unseen: the proof shows them, and what they count stays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.graph.nets import net
from torchpare import plan
from torchpare.errors import ProofError
from torchpare.speedup import ModelSpeedup
from torchpare.speedup.lost_numbers import axes_behind_numbers


def steps():
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def between(middle):
    layers = {"a": nn.Linear(3, 12), "b": nn.Linear(12, 8), "c": nn.Linear(8, 2)}
    return net(lambda m, x: m.c(torch.tanh(m.b(middle(torch.tanh(m.a(x)))))), **layers)


UNSEEN = {
    "a factor before it": lambda y: y * (0.5 * y.shape[-1]),
    "one by it": lambda y: y * (1.0 / y.shape[-1]),
    "a power of two": lambda y: y * 2.0 ** -y.shape[-1],
    "a logarithm": lambda y: y * math.log(y.shape[-1]),
    "an integer of its own": lambda y: y * int(y.shape[-1]),
    "numpy": lambda y: y / float(np.sqrt(y.shape[-1])),
    "text": lambda y: y * float(f"{y.shape[-1]}"),
    "a tensor": lambda y: y * torch.tensor(1.0 / y.shape[-1], dtype=torch.float64),
    "a filled tensor": lambda y: y * torch.full((1,), 1.0 * int(y.shape[-1]), dtype=torch.float64),
    "a choice": lambda y: torch.where(y > 0.1, y, 1.0 / y.shape[-1]),
    "a branch": lambda y: y * 2 if y.shape[-1] > 10 else y,
    "a loop": lambda y: sum(y.roll(1, 1) * 0.1 for _ in range(y.shape[-1])),
    "a sum over features": lambda y: y + y.sum(-1, keepdim=True) * (1.0 / y.shape[-1]),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_the_axis_behind_the_number_stays_and_the_others_go(name):
    model = between(UNSEEN[name])
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], steps()).apply()
    assert report.largest_difference <= 1e-10
    assert (model.a.out_features, model.b.out_features) == (12, 4)


def test_of_several_axes_the_one_that_explains_the_number_stays():
    """Scores divided by the root of a query's width: the values need not stay as wide for that."""

    def attend(m, x):
        q, k, v = (y.unflatten(-1, (m.heads, -1)).transpose(1, 2) for y in (m.q(x), m.k(x), m.v(x)))
        scores = (q @ k.transpose(-1, -2)) * float(np.float64(q.shape[-1]) ** -0.5)
        return m.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    layers = {"q": nn.Linear(3, 24), "k": nn.Linear(3, 24), "v": nn.Linear(3, 24), "o": nn.Linear(24, 2)}
    model = net(attend, attributes={"heads": 4}, **layers)
    plan(model, [{"sparsity": 0.5, "structures": ["head_dim"]}], steps()).apply()
    assert (model.q.out_features, model.k.out_features, model.v.out_features) == (24, 24, 12)


CUT = {
    "half of it, by a factor": lambda y: int(0.5 * y.shape[-1]),
    "half of it, by numpy": lambda y: np.array(y.shape)[-1] // 2,
    "half of it, by a stride": lambda y: y.mT.stride(-1) // 2,
}


@pytest.mark.parametrize("name", CUT)
def test_a_small_model_that_does_not_run_shows_where_the_number_was(name):
    def run(m, x):
        y = torch.tanh(m.a(x))
        at = CUT[name](y)
        return m.e(torch.tanh(m.b(y[..., :at]) + m.c(y[..., at:])))

    layers = {"a": nn.Linear(3, 16), "b": nn.Linear(8, 8), "c": nn.Linear(8, 8), "e": nn.Linear(8, 2)}
    model = net(run, **layers)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], steps()).apply()
    assert report.largest_difference <= 1e-10
    assert (model.a.out_features, model.b.out_features) == (16, 4)


def test_masks_of_such_an_axis_stay_masks():
    model, keep = between(UNSEEN["one by it"]), torch.ones(12, dtype=torch.bool)
    keep[[1, 4]] = False
    narrow = torch.ones(8, dtype=torch.bool)
    narrow[[0, 6, 7]] = False
    masks = {
        "a": {"weight": keep[:, None].expand(12, 3), "bias": keep},
        "b": {"weight": narrow[:, None].expand(8, 12), "bias": narrow},
    }
    report = ModelSpeedup(model, steps(), masks).speedup_model()
    assert report.largest_difference <= 1e-10
    assert (model.a.out_features, model.b.out_features) == (12, 5)


def test_without_a_proof_nobody_notices():
    model = between(UNSEEN["one by it"])
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], steps()).apply(verify=False)
    assert model.a.out_features == 6


def test_a_model_that_gives_other_answers_each_time_is_no_matter_of_numbers():
    """Both runs compute with the same numbers: then the proof has the last word."""
    times = iter(range(100))
    model = net(lambda m, x: m.b(m.a(x)) + m.table[next(times)], a=nn.Linear(3, 12), b=nn.Linear(12, 2))
    model.register_buffer("table", torch.arange(100, dtype=torch.float64))
    with pytest.raises(ProofError, match="differs from the masked one"):
        plan(model, [{"sparsity": 0.5, "structures": ["all"]}], steps()).apply()
    assert model.a.out_features == 12


def test_the_same_numbers_point_at_no_axis():
    model = net(lambda m, x: m.b(torch.tanh(m.a(x)) * 3 + 0.5), a=nn.Linear(3, 12), b=nn.Linear(12, 2))
    made = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], steps())
    made.apply()
    assert axes_behind_numbers(model, steps(), made.removal) == frozenset()
