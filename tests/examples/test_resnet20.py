from __future__ import annotations

import pytest
import torch
from torch import nn

from examples.resnet20 import ResNet20


@pytest.mark.parametrize("size", [8, 28, 32])
def test_it_reads_pictures_of_any_size(size):
    assert ResNet20(width=4)(torch.zeros(2, 1, size, size)).shape == (2, 10)


def test_it_has_the_twenty_layers_of_the_paper_and_two_projections():
    layers = [(name, m) for name, m in ResNet20().named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([name for name, _ in layers if "shortcut" not in name]) == 20
    assert [name for name, _ in layers if "shortcut" in name] == ["layer2.0.shortcut.0", "layer3.0.shortcut.0"]


def test_it_is_as_large_as_the_paper_says():
    parameters = sum(p.numel() for name, p in ResNet20().named_parameters() if "shortcut" not in name)
    assert parameters == pytest.approx(0.27e6, rel=0.01)
