"""Who shares channels with whom: sets, divisors, repaired masks, and the CSV files of the original toolkit."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn

from tests.graph.nets import image, keep_without, net
from tests.support.vision import torchvision_models
from torchpare.errors import MaskConflictError, MaskError
from torchpare.files.masks import save_masks
from torchpare.speedup import ChannelDependency, GroupDependency, fix_mask_conflict


@pytest.fixture(scope="module")
def resnet18():
    return ChannelDependency(torchvision_models().resnet18(weights=None), torch.ones(1, 3, 32, 32))


def test_resnet18_has_the_twelve_documented_sets(resnet18):
    found = {frozenset(group) for group in resnet18.dependency_sets}
    alone = {f"layer{stage}.{block}.conv1" for stage in range(1, 5) for block in range(2)}
    assert found == {
        frozenset({"conv1", "layer1.0.conv2", "layer1.1.conv2"}),
        *(
            frozenset({f"layer{stage}.0.conv2", f"layer{stage}.1.conv2", f"layer{stage}.0.downsample.0"})
            for stage in (2, 3, 4)
        ),
        *(frozenset({name}) for name in alone),
    }
    assert len(resnet18.dependency_sets) == 12


def test_each_layer_knows_its_set(resnet18):
    assert resnet18.dependency["layer1.0.conv2"] == {"conv1", "layer1.0.conv2", "layer1.1.conv2"}
    assert resnet18.dependency["layer4.1.conv1"] == {"layer4.1.conv1"}
    assert "fc" not in resnet18.dependency  # an output can lose nothing


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_the_sets_are_written_as_csv(resnet18, tmp_path):
    resnet18.export(tmp_path / "sets.csv")
    written = rows(tmp_path / "sets.csv")
    assert written[0] == ["Dependency Set", "Layers"]
    assert written[1] == ["Set 1", "conv1", "layer1.0.conv2", "layer1.1.conv2"]
    assert [row[0] for row in written[1:]] == [f"Set {number}" for number in range(1, 13)]


def test_a_concatenation_ties_nobody():
    model = net(
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 1)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 2, 1),
        c=nn.Conv2d(6, 2, 1),
    )
    assert ChannelDependency(model, image()).dependency_sets == [{"a"}, {"b"}]


def test_sets_that_meet_through_a_third_are_one():
    model = net(
        lambda m, x: m.out(m.a(x) + m.b(x)) + m.out(m.b(x) * m.c(x)),
        a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(3, 4, 1), out=nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    assert ChannelDependency(model, image()).dependency_sets == [{"a", "b", "c"}]


def groups():
    return net(
        lambda m, x: m.e(m.d(m.c(m.b(m.a(x))))),
        a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(12, 12, 1, groups=4), c=nn.Conv2d(12, 12, 1, groups=6),
        d=nn.Conv2d(12, 12, 3, padding=1, groups=12), e=nn.Conv2d(12, 2, 1),
    )  # fmt: skip


def test_divisors_are_those_of_the_own_groups_and_of_the_readers(tmp_path):
    found = GroupDependency(groups(), image())
    assert found.dependency == {"a": 4, "b": 12, "c": 6, "d": 1, "e": 1}
    assert found.dependency_sets == found.dependency
    found.export(tmp_path / "groups.csv")
    assert rows(tmp_path / "groups.csv") == [
        ["Conv Layer Name", "Group"], ["a", "4"], ["b", "12"], ["c", "6"], ["d", "1"], ["e", "1"],
    ]  # fmt: skip


def sum_of_two():
    return net(lambda m, x: m.c(m.a(x) + m.b(x)), a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 6, 1), c=nn.Conv2d(6, 2, 1))


def one_mask(*dropped):
    keep = keep_without(6, *dropped)
    return {"weight": keep.view(6, 1, 1, 1), "bias": keep}


@pytest.mark.parametrize("as_file", [True, False])
def test_channels_that_not_everybody_drops_are_unmasked(as_file, tmp_path):
    masks = {"a": one_mask(0, 1), "b": one_mask(1, 2)}
    given = masks
    if as_file:
        given = tmp_path / "mask.pth"
        save_masks(masks, given)
    fixed = fix_mask_conflict(given, sum_of_two(), image())
    for layer in "ab":
        assert fixed[layer]["weight"].flatten().tolist() == keep_without(6, 1).tolist()
        assert fixed[layer]["bias"].tolist() == keep_without(6, 1).tolist()
    assert masks["a"]["bias"].tolist() == keep_without(6, 0, 1).tolist(), "what was given is not changed"


def test_masks_that_agree_come_back_as_they_were():
    masks = {"a": one_mask(1, 2), "b": one_mask(1, 2)}
    fixed = fix_mask_conflict(masks, sum_of_two(), image(), on_conflict="refuse")
    assert {layer: {name: mask.tolist() for name, mask in own.items()} for layer, own in fixed.items()} == {
        layer: {name: mask.tolist() for name, mask in own.items()} for layer, own in masks.items()
    }


def test_fine_grained_masks_are_left_alone():
    scattered = torch.rand(6, 3, 1, 1) < 0.5
    scattered[0] = torch.tensor([True, False, True]).view(3, 1, 1)
    scattered[1] = torch.tensor([False, True, True]).view(3, 1, 1)
    fixed = fix_mask_conflict({"a": {"weight": scattered}}, sum_of_two(), image())
    assert torch.equal(fixed["a"]["weight"], scattered)


def test_a_conflict_is_refused_by_name_and_no_masks_at_all_too():
    with pytest.raises(MaskConflictError, match="a, b"):
        fix_mask_conflict({"a": one_mask(0), "b": one_mask(1)}, sum_of_two(), image(), on_conflict="refuse")
    with pytest.raises(MaskError):
        fix_mask_conflict({}, sum_of_two(), image())
