"""Random values reach everything that a fresh network leaves at 0 or 1, and leave it alive."""

from __future__ import annotations

import torch
from torch import nn

from torchpare.zoo.randomise import randomise, settle_norms


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 64))
        self.positions = nn.Parameter(torch.zeros(1, 50, 64))
        self.scale = nn.Parameter(torch.zeros(64, 1, 1))
        self.experts = nn.Parameter(torch.zeros(4, 32, 64))
        self.spectrum = nn.Parameter(torch.zeros(5, 64, dtype=torch.complex64))
        self.counts = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
        self.norm = nn.BatchNorm2d(64)
        self.register_buffer("table", torch.arange(6.0))
        nn.init.zeros_(self.head.weight)


def test_nothing_stays_at_zero_and_tables_stay(generator):
    net = randomise(Odd(), generator)
    for name, parameter in net.named_parameters():
        if name != "counts":
            assert parameter.detach().abs().min() > 0, name
    assert not net.counts.any()
    assert net.table.tolist() == [0, 1, 2, 3, 4, 5]
    assert net.norm.num_batches_tracked == 0
    assert net.norm.running_var.min() >= 0.5
    assert net.norm.running_mean.abs().max() > 0.1


def test_rows_keep_the_variance_of_their_signal(generator):
    net = randomise(Odd(), generator)
    for tensor in (net.head.weight, net.positions, net.experts):
        assert 1.5 < tensor.detach().square().sum(-1).mean() < 2.5  # He: twice the inverse of the fan-in, times it
    assert net.scale.detach().abs().max() <= 0.5


def test_what_multiplies_a_channel_is_near_one(generator):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(64, 1, 1, 1))
            self.new = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))

    net = randomise(Scaled(), generator)
    for scale in (net.gain, net.new.parametrizations.weight.original0):
        assert 0.5 <= scale.detach().min() < 0.6
        assert 1.4 < scale.detach().max() <= 1.5
    assert net.new.parametrizations.weight.original1.detach().min() < 0
    column = randomise(nn.Linear(64, 1, bias=False), generator).weight.detach()
    assert column.min() < 0 < column.max() < 0.5  # a matrix of one row is not a vector


def test_statistics_of_norms_are_near_those_of_the_data(generator):
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)) for _ in range(40)]

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(blocks)

        def forward(self, x):
            for block in self.blocks:
                x = x + 3 * torch.relu(block(x))
            return x

    x = torch.randn(2, 8, 6, 6, generator=generator)
    net = randomise(Deep(), generator).eval()
    wild = net(x).abs().max()
    settle_norms(net, lambda: net(x))
    assert net(x).abs().max() < 1e-3 * wild
    last = blocks[-1][1]
    assert last.running_var.unique().numel() == 8
    assert not last._forward_pre_hooks


def test_a_norm_of_a_single_pixel_keeps_a_variance(generator):
    net = randomise(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), generator).eval()
    settle_norms(net, lambda: net(torch.ones(1, 3, 1, 1)))
    assert net[1].running_var.min() > 0
    assert torch.isfinite(net(torch.ones(1, 3, 1, 1))).all()
