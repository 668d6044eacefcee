from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.files.leaf_attributes import leaf_attributes

LAYERS = [
    nn.Conv1d(4, 6, 3),
    nn.Conv2d(4, 6, 3, groups=2),
    nn.Conv3d(4, 4, 1, groups=4),
    nn.ConvTranspose2d(4, 6, 3, groups=2),
    nn.Linear(3, 5),
    nn.Bilinear(2, 3, 4),
    nn.Embedding(7, 3),
    nn.EmbeddingBag(7, 3),
    nn.BatchNorm2d(5),
    nn.BatchNorm1d(5, affine=False),
    nn.InstanceNorm2d(5, affine=True),
    nn.GroupNorm(2, 6),
    nn.LayerNorm((3, 4)),
    nn.RMSNorm(4),
    nn.PReLU(3),
    nn.LSTM(3, 5, num_layers=2, bidirectional=True),
    nn.LSTM(3, 5, proj_size=2),
    nn.GRU(3, 5),
    nn.RNN(3, 5),
    nn.LSTMCell(3, 5),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_fresh_layer_says_what_its_constructor_was_told(layer):
    told = leaf_attributes(layer)
    assert told
    for name, value in told.items():
        assert getattr(layer, name) == value


def test_the_numbers_follow_the_shapes():
    conv = nn.Conv2d(4, 6, 3, groups=2)
    conv.weight = nn.Parameter(torch.ones(3, 1, 3, 3))
    conv.groups = 3
    assert leaf_attributes(conv) == {"in_channels": 3, "out_channels": 3, "kernel_size": (3, 3)}


@pytest.mark.parametrize(
    "layer", [nn.ReLU(), nn.LayerNorm(3, elementwise_affine=False), nn.Sequential(nn.Linear(2, 2))]
)
def test_a_layer_without_parameters_of_its_own_has_none(layer):
    assert leaf_attributes(layer) == {}
