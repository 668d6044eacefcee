"""Normalisations follow the channels they scale; those over the channels themselves change by nature, and say so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import torchpare
from tests.graph.nets import free, image, net, shrinks, why_not
from tests.networks.rule_nets import steps
from torchpare import plan
from torchpare.graph import analyse
from torchpare.speedup import ModelSpeedup


def chain(m, x):
    return m.b(torch.relu(m.norm(m.a(x))))


def around(norm, channels=6):
    return net(chain, a=nn.Conv2d(3, channels, 1), norm=norm, b=nn.Conv2d(channels, 2, 1))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("statistics", [True, False])
def test_batch_norm_loses_its_channel_everywhere(affine, statistics):
    model = around(nn.BatchNorm2d(6, affine=affine, track_running_stats=statistics))
    if affine:
        assert shrinks(model, image(), {"a": [0, 5]}, expect={"a": (4, 3), "b": (2, 4)}).exact
    else:  # nothing silences the constant -mean/deviation but the reader's columns, which are masked too
        shrinks(model, image(), {"a": [0, 5]}, expect={"a": (4, 3), "b": (2, 4)})
    if affine or statistics:
        assert model.norm.num_features == 4
    if statistics:
        assert model.norm.running_mean.shape == model.norm.running_var.shape == (4,)


def test_batch_norm_keeps_the_statistics_of_its_own_channels():
    model = around(nn.BatchNorm2d(6))
    before = model.norm.running_mean.clone()
    shrinks(model, image(), {"a": [1, 2]}, expect={"a": (4, 3)})
    assert torch.equal(model.norm.running_mean, before[[0, 3, 4, 5]])


@pytest.mark.filterwarnings("ignore:input's size at dim=1 does not match num_features")
def test_instance_norm_goes_channel_by_channel():
    model = around(nn.InstanceNorm2d(6))
    shrinks(model, image(), {"a": [1, 2]}, expect={"a": (4, 3), "b": (2, 4)})


def test_instance_norm_repeats_its_scales_over_the_batch():
    model = around(nn.InstanceNorm2d(6, affine=True))
    report = shrinks(model, image(), {"a": [1, 2]}, expect={"a": (4, 3), "b": (2, 4)})
    assert report.exact
    assert model.norm.weight.shape == (4,)


def test_group_norm_gives_up_whole_groups_exactly():
    model = around(nn.GroupNorm(3, 6))
    x = image()
    classes = analyse(model, x).channels("a").classes
    assert classes[0] == classes[1] != classes[2] == classes[3] != 0
    report = shrinks(model, x, {"a": [2, 3]}, expect={"a": (4, 3), "b": (2, 4)})
    assert report.exact
    assert model.norm.num_groups == 2


def test_group_norm_keeps_a_group_that_is_asked_for_in_part():
    model = around(nn.GroupNorm(3, 6))
    shrinks(model, image(), {"a": [2]}, expect={"a": (6, 3)})


def written_groups(m, x):
    return m.b(torch.relu(functional.group_norm(m.a(x), 2, m.norm.weight, m.norm.bias)))


@pytest.mark.parametrize(
    ("model", "groups", "dropped"),
    [
        (around(nn.GroupNorm(1, 6)), 1, [0, 4]),
        (net(written_groups, a=nn.Conv2d(3, 6, 1), norm=nn.GroupNorm(2, 6), b=nn.Conv2d(6, 2, 1)), 2, [0, 4]),
    ],
    ids=["one group", "a number of groups in the source"],
)
def test_group_norm_that_must_keep_its_groups_is_taken_over_fewer_channels(model, groups, dropped):
    dense, keep = copy.deepcopy(model), [channel for channel in range(6) if channel not in dropped]
    report = shrinks(model, image(), {"a": dropped}, expect={"a": (4, 3), "b": (2, 4)})
    assert {change.kind for change in report.changes} == {"a norm over the pruned axis"}
    assert model.norm.num_groups == groups
    normed = functional.group_norm(dense.a(image())[:, keep], groups, dense.norm.weight[keep], dense.norm.bias[keep])
    wanted = functional.conv2d(torch.relu(normed), dense.b.weight[:, keep], dense.b.bias)
    torch.testing.assert_close(model(image()), wanted)


def test_groups_written_as_a_number_lose_equally_many_channels():
    model = net(written_groups, a=nn.Conv2d(3, 6, 1), norm=nn.GroupNorm(2, 6), b=nn.Conv2d(6, 2, 1))
    shrinks(model, image(), {"a": [0, 1, 4]}, expect={"a": (4, 3), "b": (2, 4)})


def test_layer_norm_over_pruned_features_is_a_change_by_name():
    model = net(lambda m, x: m.b(m.norm(m.a(x))), a=nn.Linear(4, 6), norm=nn.LayerNorm(6), b=nn.Linear(6, 2))
    x = torch.randn(3, 4, dtype=torch.float64)
    keep = torch.tensor([True, False, True, True, True, True])
    report = ModelSpeedup(model, x, {"a": {"weight": keep[:, None], "bias": keep}}).speedup_model()
    assert not report.exact
    assert ("a norm over the pruned axis", "norm") in {(change.kind, change.module) for change in report.changes}
    assert model.norm.normalized_shape == (5,)
    assert model.norm.weight.shape == model.norm.bias.shape == (5,)
    assert model(x).shape == (3, 2)


def test_layer_norm_over_other_axes_is_no_change():
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=nn.Conv2d(3, 6, 1),
        norm=nn.LayerNorm([6, 6], elementwise_affine=True),
        b=nn.Conv2d(6, 2, 1),
    )
    assert free(model, image(), "a") == 6
    report = shrinks(model, image(), {"a": [3]}, expect={"a": (5, 3)})
    assert not [change for change in report.changes if "over the pruned axis" in change.kind]


def test_a_normalised_shape_typed_as_a_number_freezes():
    model = net(lambda m, x: m.b(torch.nn.functional.layer_norm(m.a(x), (6,))), a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    x = torch.randn(3, 4, dtype=torch.float64)
    assert free(model, x, "a") == 0
    assert "normalised shape" in why_not(model, x, "a")


@pytest.mark.parametrize(
    ("norm", "x", "attribute"),
    [
        (lambda: nn.RMSNorm(8, elementwise_affine=False, eps=1e-3), steps, "normalized_shape"),
        (lambda: nn.LayerNorm(8, elementwise_affine=False), steps, "normalized_shape"),
        (lambda: nn.GroupNorm(4, 8, affine=False), image, "num_channels"),
        (lambda: nn.InstanceNorm2d(8), image, "num_features"),
        (lambda: nn.BatchNorm2d(8, affine=False), image, "num_features"),
    ],
    ids=["rms", "layer", "group", "instance", "batch"],
)
def test_a_norm_without_parameters_remembers_its_channels_rightly(norm, x, attribute, tmp_path):
    def build():
        maker, reader = (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)) if x is image else (nn.Linear(3, 8), nn.Linear(8, 2))
        return nn.Sequential(maker, norm(), reader).double().eval()

    model = build()
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x()).apply()
    assert getattr(model[1], attribute) in (4, (4,))
    torchpare.save(model, tmp_path / "small.safetensors")
    fresh = build()
    torchpare.load(fresh, tmp_path / "small.safetensors")
    assert getattr(fresh[1], attribute) in (4, (4,))
    assert torch.equal(fresh(x()), model(x()))
