from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.support.nets import Net, TiedNet
from tests.support.vision import torchvision_models
from torchpare.attach import attach_mask, attach_masks
from torchpare.errors import CaptureError, ConfigError, MaskError
from torchpare.report.counts import count_flops_params


def counted(model, x, **settings):
    return count_flops_params(model, x, verbose=False, **settings)


def independent(model, x):
    """Torch's own count, in multiply-accumulates per sample."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x)
    return counter.get_total_flops() // 2 // x.shape[0]


class EachKind(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 1)
        self.norm = nn.BatchNorm2d(5)
        self.leaky = nn.LeakyReLU()
        self.larger = nn.UpsamplingBilinear2d(size=2)
        self.pool = nn.AdaptiveAvgPool2d((2, 2))
        self.linear = nn.Linear(20, 10)

    def forward(self, x):
        x = self.pool(self.larger(self.leaky(self.norm(self.convolution(x)))))
        return self.linear(x.flatten(1))


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 1)
        self.again = nn.Conv2d(5, 5, 1)

    def forward(self, x):
        x = self.first(x)
        for _ in range(5):
            x = self.again(x)
        return x


# The three counts that the tests of the reference assert.


def test_every_kind_in_full_mode():
    flops, params, rows = counted(EachKind(), (1, 3, 2, 2), mode="full")
    assert (flops, params) == (610, 240)
    assert [row["flops"] for row in rows] == [60 + 20, 2 * 20, 20, 11 * 20, 2 * 20, 200 + 10]


def test_a_layer_that_is_called_again_counts_again_with_its_parameters_once():
    flops, params, rows = counted(Repeated(), (1, 3, 2, 2))
    assert (flops, params) == (560, 50)
    assert [row["name"] for row in rows] == ["first"] + ["again"] * 5


def test_resnet50():
    flops, params, _ = counted(torchvision_models().resnet50(weights=None), (1, 3, 224, 224))
    assert (flops, params) == (4089184256, 25503912)
    assert type(flops) is type(params) is int


def test_a_row_tells_of_one_call():
    rows = counted(EachKind(), torch.zeros(4, 3, 2, 2))[2]
    assert rows[0] == {
        "name": "convolution",
        "input_size": (4, 3, 2, 2),
        "output_size": (4, 5, 2, 2),
        "module_type": "Conv2d",
        "flops": 60,
        "params": 20,
        "weight_shape": (5, 3, 1, 1),
    }


@pytest.mark.parametrize(
    ("layer", "x", "weights", "everything"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), (2, 4, 7), 6 * 2 * 3 * 5, 6 * 2 * 3 * 5 + 6 * 5),
        (nn.Conv2d(4, 6, 3, stride=2), (2, 4, 7, 7), 6 * 4 * 9 * 9, 6 * 4 * 9 * 9 + 6 * 9),
        (nn.Conv3d(2, 2, 1, bias=False), (1, 2, 3, 3, 3), 4 * 27, 4 * 27),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 3, 3), 4 * 6 * 4 * 9, 4 * 6 * 4 * 9 + 6 * 36),
        (nn.Linear(3, 5), (2, 3), 15, 20),
        (nn.Linear(3, 5), (2, 7, 3), 7 * 15, 7 * 20),
        (nn.RNN(3, 4, batch_first=True), (2, 5, 3), 5 * (4 * 7 + 4), 5 * (4 * 7 + 4 + 8)),
        (nn.GRU(3, 4, batch_first=True), (2, 5, 3), 5 * (3 * (4 * 7 + 4) + 16), 5 * (3 * (4 * 7 + 4 + 8) + 16)),
        (nn.LSTM(3, 4, batch_first=True), (2, 5, 3), 5 * (4 * (4 * 7 + 4) + 16), 5 * (4 * (4 * 7 + 4 + 8) + 16)),
        (nn.GRUCell(3, 4), (2, 3), 3 * (4 * 7 + 4) + 16, 3 * (4 * 7 + 4 + 8) + 16),
        (nn.LSTMCell(3, 4), (2, 3), 4 * (4 * 7 + 4) + 16, 4 * (4 * 7 + 4 + 8) + 16),
        (nn.BatchNorm1d(3), (2, 3, 5), 0, 30),
        (nn.BatchNorm2d(3, affine=False), (2, 3, 2, 2), 0, 24),
        (nn.AvgPool2d(2), (2, 3, 4, 4), 0, 12),
        (nn.AdaptiveAvgPool2d(1), (2, 3, 4, 4), 0, 17 * 3),
        (nn.Upsample(scale_factor=2, mode="nearest"), (2, 3, 2, 2), 0, 0),
        (nn.Upsample(scale_factor=2, mode="bicubic"), (2, 3, 2, 2), 0, 259 * 48),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_one_layer_by_hand(layer, x, weights, everything):
    model = nn.Sequential(layer)
    assert counted(model, x)[0] == weights
    assert counted(model, x, mode="full")[0] == everything


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_torchs_own_counter_agrees(name):
    model = getattr(torchvision_models(), name)(weights=None)
    x = torch.zeros(1, 3, 64, 64)
    assert counted(model, x)[0] == independent(model, x)


@pytest.mark.parametrize("mode", ["default", "full"])
@pytest.mark.parametrize("make", [EachKind, Repeated, Net])
def test_a_larger_batch_counts_the_same_per_sample(make, mode):
    model = make()
    assert counted(model, (1, 3, 2, 2), mode=mode)[0] == counted(model, (7, 3, 2, 2), mode=mode)[0]


# Masks.


def masked_net():
    """A net and masks that leave four of eight channels of its first convolution, with all that hangs on them."""
    keep = torch.arange(8) % 2 == 0
    column = keep.view(8, 1, 1, 1)
    masks = {
        "conv1": {"weight": column, "bias": keep},
        "norm1": {"weight": keep, "bias": keep},
        "depthwise": {"weight": column},
        "norm2": {"weight": keep, "bias": keep},
        "head": {"weight": keep.view(1, 8)},
    }
    return Net(), masks


def test_masked_weights_do_not_count():
    model, masks = masked_net()
    flops, params, _ = counted(model, (1, 3, 6, 6), masks=masks)
    assert flops == 36 * 4 * 3 * 9 + 36 * 4 * 9 + 5 * 4
    assert params == (4 * 27 + 4) + 4 * 9 + (5 * 4 + 5)
    attach_masks(model, masks)
    assert counted(model, (1, 3, 6, 6))[:2] == (flops, params)
    full = counted(model, (1, 3, 6, 6), mode="full")
    assert full[0] == flops + 36 * 4 + 2 * 36 * 4 + 5


def test_single_weights_count_one_by_one():
    model = nn.Sequential(nn.Linear(3, 4))
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0]]) == 1
    assert counted(model, (2, 3), masks={"0": {"weight": mask}})[:2] == (5, 5 + 4)


def test_a_masked_layer_is_told_by_the_class_it_had():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    attach_mask(model[0], "weight", torch.tensor([True, False, True, True]).view(4, 1, 1, 1))
    assert counted(model, (1, 3, 2, 2))[2][0]["module_type"] == "Conv2d"


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(MaskError, match="'nowhere', but Net has no such layer"):
        counted(Net(), (1, 3, 6, 6), masks={"nowhere": {"weight": torch.ones(1)}})


# What no layer of a known kind computes.


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.known = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.known(F.conv2d(x, self.kernel))


def test_a_convolution_with_a_raw_parameter_is_listed_and_counted():
    flops, params, rows = counted(nn.Sequential(Raw()), (2, 3, 5, 5))
    assert [(row["name"], row["module_type"], row["flops"], row["params"]) for row in rows] == [
        ("0.known", "Conv2d", 9 * 8, 10),
        ("0", "Raw (functional)", 9 * 108, 108),
    ]
    assert (flops, params) == (9 * 116, 118)


def test_attention_counts_whole():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    flops, params, rows = counted(model, (2, 5, 8))
    projections, attention, feed_forward = 5 * 4 * 64, 2 * 5 * 5 * 8, 5 * 2 * 8 * 16
    assert flops == projections + attention + feed_forward
    assert params == sum(p.numel() for p in model.parameters()) - 4 * 8  # the two norms are not counted
    assert rows[-1]["module_type"] == "MultiheadAttention (functional)"
    assert torch.backends.mha.get_fastpath_enabled()


def test_shared_weights_count_once_as_parameters():
    flops, params, _ = counted(TiedNet(), torch.zeros(2, 3, dtype=torch.int64))
    assert flops == 3 * (2 * 16 + 28)
    assert params == 4 * 4 + 4 + 28


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x) @ x.T


def test_a_custom_operation_takes_the_place_of_all_it_calls():
    model = nn.Sequential(Whole(), nn.Linear(2, 1))
    seen = []

    def count(module, inputs, output):
        seen.append((module, inputs[0].shape, output.shape))
        return {"flops": 100, "params": 7}

    flops, params, rows = counted(model, (2, 3), custom_ops={Whole: count})
    assert (flops, params) == (100 + 2, 7 + 3)
    assert [row["name"] for row in rows] == ["0", "1"]
    assert seen == [(model[0], (2, 3), (2, 2))]


# Nothing stays behind.


def state_of(model):
    return {
        name: (module.training, set(vars(module)), dict(module._forward_hooks), dict(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


def test_nothing_is_left_on_the_model():
    model = EachKind().train()
    model.norm.eval()
    before, values = state_of(model), copy.deepcopy(model.state_dict())
    counted(model, (2, 3, 2, 2), mode="full")
    assert state_of(model) == before
    assert all(torch.equal(model.state_dict()[name], value) for name, value in values.items())


def test_nothing_is_left_after_a_failure():
    model = EachKind().train()
    before = state_of(model)
    with pytest.raises(CaptureError, match=r"EachKind does not run on this input: RuntimeError: .*expected input"):
        counted(model, (2, 4, 2, 2))
    with pytest.raises(ConfigError, match=r"custom_ops\[Linear\] returned 3; it must return a dict with 'flops' and"):
        counted(model, (2, 3, 2, 2), custom_ops={nn.Linear: lambda *_: 3})
    assert state_of(model) == before


def test_an_unknown_mode_names_the_two_there_are():
    with pytest.raises(ConfigError, match=r"mode is 'fast'; it is 'default' .* or 'full'"):
        counted(EachKind(), (1, 3, 2, 2), mode="fast")


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, a, b):
        return self.linear(a) + b


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_several_inputs(form):
    inputs = {"a": torch.zeros(4, 3), "b": torch.zeros(4, 2)}
    assert counted(TwoInputs(), inputs if form == "dict" else tuple(inputs.values()))[0] == 6


def test_the_table_has_a_line_for_each_layer(capsys):
    count_flops_params(Repeated(), (1, 3, 2, 2))
    printed = capsys.readouterr().out
    for word in ("first", "again", "Conv2d", "5 3 1 1", "FLOPs total: 560 per sample", "Params total: 50"):
        assert word in printed
    assert printed.count("again") == 1
