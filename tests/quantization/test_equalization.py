"""Equalizing neighbouring layers: the function stays, ranges meet, and pairs that must not take part do not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from torchpare.errors import CaptureError, QuantizationError
from torchpare.pruning import LevelPruner
from torchpare.quantization import ObserverQuantizer
from torchpare.quantization.equalization import equalize


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.c(x + torch.relu(self.b(x)))


class ShownBefore(nn.Module):
    """What the first layer makes is also returned."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        y = torch.relu(self.a(x))
        return y, self.b(y)


class OtherAxis(nn.Module):
    """The linear layer reads pixels, not channels; with one sample a view alone brings that about."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 9, 1), nn.Linear(9, 9)

    def forward(self, x):
        return self.b(self.a(x).view(9, 9))


class MeanOfChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 1), nn.Linear(16, 2)

    def forward(self, x):
        return self.b(self.a(x).mean(1).flatten(1))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(torch.relu(self.a(x)))))


def image(*layers):
    return nn.Sequential(*layers), torch.randn(2, 3, 8, 8)


NETS = {
    "convolutions": lambda: image(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(True),
                                  nn.MaxPool2d(2, padding=1), nn.Conv2d(5, 4, 1)),
    "norms": lambda: image(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3)),
    "depthwise": lambda: image(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6),
                               nn.LeakyReLU(0.2), nn.Conv2d(6, 2, 1)),
    "groups": lambda: image(nn.Conv2d(3, 6, 1), nn.PReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(),
                            nn.Conv2d(8, 2, 1)),
    "transposed": lambda: image(nn.ConvTranspose2d(3, 6, 2, groups=3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, groups=2),
                                nn.ReLU(), nn.Conv2d(4, 2, 1)),
    "flatten": lambda: image(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 7), nn.ReLU(),
                             nn.Linear(7, 2)),
    "pooled": lambda: image(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    "texts": lambda: (nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3, bias=False)),
                      torch.randn(2, 5, 6)),
    "depth": lambda: (nn.Sequential(nn.Conv3d(2, 4, 2), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 3, 1)),
                      torch.randn(1, 2, 6, 6, 6)),
    "sequence": lambda: (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 1)),
                         torch.randn(2, 2, 9)),
}  # fmt: skip
PAIRS = {"convolutions": 2, "norms": 1, "depthwise": 2, "groups": 2, "transposed": 2, "flatten": 2, "pooled": 1,
         "texts": 1, "depth": 1, "sequence": 1}  # fmt: skip


def uneven(model, seed=0):
    """Channels of very different sizes, running statistics and norms that are not one, biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() and tensor.is_floating_point():
            sizes = torch.exp(2 * torch.randn(tensor.shape[0], generator=generator)).to(tensor.dtype)
            values = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            scaled = values * sizes.reshape(-1, *[1] * (tensor.dim() - 1))
            tensor.data.copy_(scaled.abs() + 0.1 if "running_var" in name else scaled)
    return model.eval()


@pytest.mark.parametrize("name", NETS)
def test_the_function_stays_and_ranges_come_closer(name):
    model, x = NETS[name]()
    model, x = uneven(model).double(), x.double()
    before = model(x)
    parameters = list(model.parameters())
    report = equalize(model, x)
    assert len(report) == PAIRS[name]
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-9)
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))
    assert max(pair.spread_after for pair in report) < max(pair.spread_before for pair in report)


def test_each_channel_has_the_same_range_where_it_is_made_and_where_it_is_read():
    model = uneven(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    first, second = model[0].weight.abs().amax(1), model[2].weight.abs().amax(0)
    equalize(model, torch.zeros(1, 5))
    expected = (first * second).sqrt()
    torch.testing.assert_close(model[0].weight.abs().amax(1), expected)
    torch.testing.assert_close(model[2].weight.abs().amax(0), expected)


def test_a_norm_counts_as_part_of_the_layer_before_it_and_takes_the_factor():
    model = uneven(nn.Sequential(nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 1)))
    weight = model[0].weight.clone()
    equalize(model, torch.zeros(1, 2, 3, 3))
    assert torch.equal(model[0].weight, weight)
    slope = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    made = (weight * slope[:, None, None, None]).abs().flatten(1).amax(1)
    torch.testing.assert_close(made, model[3].weight.abs().amax((0, 2, 3)))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(4, 6), nn.ReLU6(), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)),
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Sigmoid()),
        ShownBefore(),
    ],
    ids=["bounded", "gelu", "layer norm", "last", "shown"],
)
def test_pairs_whose_function_would_change_are_left_alone(net):
    state = copy.deepcopy(net.state_dict())
    assert equalize(net, torch.zeros(2, 4)) == []
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_residual_keeps_what_both_of_its_sides_read():
    model, x = uneven(Residual()).double(), torch.randn(2, 4).double()
    before = model(x)
    assert equalize(model, x) == []
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(("net", "shape"), [(OtherAxis(), (1, 1, 3, 3)), (MeanOfChannels(), (2, 1, 4, 4))])
def test_what_reads_another_axis_does_not_take_part(net, shape):
    assert equalize(net, torch.zeros(shape)) == []


def test_a_layer_used_twice_or_shared_takes_no_part():
    twice = nn.Linear(4, 4)
    assert equalize(nn.Sequential(twice, nn.ReLU(), twice, nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 4)) == []
    assert equalize(CalledTwice(), torch.zeros(1, 4)) == []


def test_pruned_weights_stay_pruned_and_dead_channels_are_not_divided_by_zero():
    model = uneven(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    model[0].weight.data[2] = 0
    model[2].weight.data[:, 4] = 0
    LevelPruner(model, [{"sparsity": 0.5, "op_types": ["Linear"]}]).compress()
    zero = [layer.weight == 0 for layer in (model[0], model[2])]
    equalize(model, torch.zeros(1, 5))
    for layer, was in zip((model[0], model[2]), zero, strict=True):
        assert bool(layer.weight.isfinite().all())
        assert torch.equal(layer.weight == 0, was)


def test_what_cannot_be_equalized_is_named_and_the_model_stays_as_it_was():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    model[4].weight.data[0, 0] = torch.nan
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(QuantizationError, match=r"4\.weight holds NaN"):
        equalize(model, torch.zeros(1, 4))
    with pytest.raises(CaptureError):
        equalize(model, torch.zeros(1, 3))
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0, equal_nan=True)


def test_a_quantized_model_is_refused_since_its_grids_would_no_longer_fit():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    ObserverQuantizer(model, [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Linear"]}]).compress()
    before = model(torch.ones(1, 4))
    with pytest.raises(QuantizationError, match="0 is quantized already"):
        equalize(model, torch.zeros(1, 4))
    assert torch.equal(model(torch.ones(1, 4)), before)
