"""Who shares channels with whom, as a value: the same sets and files as the classes that scripts know."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tests.support.vision import torchvision_models
from torchpare.errors import CaptureError
from torchpare.insight import coupling
from torchpare.report import Page, Section, render_page
from torchpare.utils import ChannelDependency, GroupDependency


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_sets_divisors_and_files_are_those_of_the_classes(name, tmp_path):
    model, x = getattr(torchvision_models(), name)(weights=None), torch.ones(1, 3, 64, 64)
    found, channels, groups = coupling(model, x), ChannelDependency(model, x), GroupDependency(model, x)
    assert [set(each) for each in found.sets] == channels.dependency_sets
    assert found.divisors == groups.dependency
    found.export_sets(tmp_path / "sets.csv")
    channels.export(tmp_path / "their_sets.csv")
    assert (tmp_path / "sets.csv").read_bytes() == (tmp_path / "their_sets.csv").read_bytes()
    found.export_divisors(tmp_path / "groups.csv")
    groups.export(tmp_path / "their_groups.csv")
    assert (tmp_path / "groups.csv").read_bytes() == (tmp_path / "their_groups.csv").read_bytes()


def test_it_is_told_on_the_page_and_as_json():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 2, 1))
    found = coupling(model, torch.ones(1, 3, 4, 4))
    page = render_page(Page("x", sections=(Section("y", blocks=found.blocks()),)))
    assert "groups ask that those of 2 stay divisible" in page
    assert "2 layers lose their channels alone" in page
    assert json.loads(json.dumps(found.to_dict()))["divisors"] == {"0": 4, "1": 4, "2": 1}


def test_a_model_that_does_not_run_is_an_error():
    with pytest.raises(CaptureError):
        coupling(nn.Linear(3, 2), torch.ones(1, 4))


def test_one_of_a_kind_is_told_in_the_singular():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    (told, *_) = coupling(model, torch.ones(1, 3, 4, 4)).blocks()
    assert told.text.startswith("0 sets of layers lose their channels together, 1 layer loses its channels alone")
