"""Channels that a convolution reads as space: features of a token, columns of a table, the width of an embedding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.graph.nets import free, keep_without, net, why_not
from tests.networks.oracles import exact_output, masked_by_hand, relative
from torchpare import plan
from torchpare.graph import analyse
from torchpare.speedup import ModelSpeedup


def steps(length=4):
    return torch.randn(2, length, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


MIXERS = {
    "of tokens": lambda: nn.Conv1d(4, 4, 1),
    "of tokens, in groups": lambda: nn.Conv1d(4, 4, 1, groups=2),
    "of maps": lambda: nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Conv2d(4, 4, 1), nn.Flatten(1, 2)),
}


@pytest.mark.parametrize("name", MIXERS)
def test_a_kernel_of_one_leaves_space_as_it_is(name):
    model = net(lambda m, x: m.b(torch.relu(m.mix(m.a(x)))), a=nn.Linear(3, 6), mix=MIXERS[name](), b=nn.Linear(6, 2))
    dense = copy.deepcopy(model)
    keep = keep_without(6, 1, 4)
    masks = analyse(model, steps()).group_masks({"a": {"weight": keep.view(6, 1), "bias": keep}})
    report = ModelSpeedup(model, steps(), masks).speedup_model()
    assert model.a.out_features == model.b.in_features == 4
    assert report.exact
    assert report.output_change > 1e-6
    assert relative(exact_output(masked_by_hand(dense, masks), steps()), exact_output(model, steps())) <= 1e-10


HOLDING = {
    "strided": lambda: nn.Conv1d(4, 4, 1, stride=2),
    "padded": lambda: nn.Conv1d(4, 4, 1, padding=1),
    "longer": lambda: nn.Conv1d(4, 4, 2),
    "transposed": lambda: nn.ConvTranspose1d(4, 4, 1),
}


@pytest.mark.parametrize("name", HOLDING)
def test_any_other_kernel_holds_it(name):
    reads = {"strided": 3, "padded": 8, "longer": 5, "transposed": 6}[name]
    model = net(lambda m, x: m.b(m.mix(m.a(x))), a=nn.Linear(3, 6), mix=HOLDING[name](), b=nn.Linear(reads, 2))
    assert free(model, steps(), "a") == 0
    assert "spatial axis" in why_not(model, steps(), "a")


def text_cnn():
    """Words as rows of a table, read by kernels that are as wide as a word."""
    return net(
        lambda m, x: m.head(
            torch.cat([torch.relu(c(m.embed(x).unsqueeze(1))).squeeze(3).amax(2) for c in (m.two, m.three)], 1)
        ),
        embed=nn.Embedding(9, 6),
        two=nn.Conv2d(1, 4, (2, 6)),
        three=nn.Conv2d(1, 5, (3, 6)),
        head=nn.Linear(9, 2),
    )


def test_a_kernel_as_long_as_what_it_reads_sums_it_up():
    words = torch.randint(0, 9, (2, 7), generator=torch.Generator().manual_seed(3))
    model = text_cnn()
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], words).apply()
    assert model.embed.embedding_dim == model.two.weight.shape[3] == model.three.weight.shape[3] == 3
    assert (model.two.kernel_size, model.three.kernel_size) == ((2, 3), (3, 3))
    assert report.exact
    assert report.output_change > 1e-6


def test_what_such_a_kernel_still_reads_of_masked_channels_is_told():
    model = net(
        lambda m, x: m.conv(torch.sigmoid(m.a(x)).unsqueeze(1)).flatten(1),
        a=nn.Linear(3, 6),
        conv=nn.Conv2d(1, 2, (2, 6)),
    )
    keep = keep_without(6, 1, 4)
    report = ModelSpeedup(model, steps(), {"a": {"weight": keep.view(6, 1), "bias": keep}}).speedup_model()
    assert model.conv.weight.shape[3] == 4
    assert [(change.module, change.channels) for change in report.changes] == [("conv", 2)]
    assert report.masked_difference > 1e-6
    assert report.largest_difference <= 1e-10
