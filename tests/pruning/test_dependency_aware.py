"""Layers that share channels choose together, each by the sum of their scores, then further on their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.pruning.nets import Residual, batch, randomised
from tests.twins import scores as twins
from torchpare.graph import analyse
from torchpare.pruning import FPGMPruner, L1FilterPruner


def gone(model, name):
    """The outputs of a layer that are masked away, whatever of its inputs is."""
    layer = model.get_submodule(name)
    mask = layer.weight_mask.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight_mask
    return set((~mask.flatten(1).any(1) if mask.dim() > 1 else ~mask).nonzero().flatten().tolist())


@pytest.mark.parametrize("pruner", [L1FilterPruner, FPGMPruner])
@pytest.mark.parametrize("seed", range(3))
def test_members_of_a_residual_drop_the_channels_with_the_lowest_sum(pruner, seed):
    model = randomised(Residual(), seed)
    single = pruner(model, [{"sparsity": 0.5, "op_types": ["default"]}])
    total = single.score(model.stem.weight) + single.score(model.outer.weight)
    pruner(model, [{"sparsity": 0.5, "op_types": ["default"]}], dependency_aware=True, dummy_input=batch()).compress()
    assert gone(model, "stem") == gone(model, "outer") == set(total.argsort(stable=True)[:4].tolist())
    assert gone(model, "norm") == gone(model, "stem")


def test_the_smaller_sparsity_is_common_and_the_larger_one_continues_alone():
    model = randomised(Residual())
    asked = [{"sparsity": 0.25, "op_names": ["stem"]}, {"sparsity": 0.75, "op_names": ["outer"]}]
    L1FilterPruner(model, asked, dependency_aware=True, dummy_input=batch()).compress()
    assert len(gone(model, "stem")) == 2
    assert len(gone(model, "outer")) == 6
    assert gone(model, "stem") < gone(model, "outer")
    assert gone(model, "norm") == gone(model, "stem")


def test_a_member_that_is_excluded_holds_the_others_back_to_their_own_scores():
    model = randomised(Residual())
    own = L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["stem"]}])
    expected = set(own.score(model.stem.weight).argsort(stable=True)[:4].tolist())
    L1FilterPruner(
        model, [{"sparsity": 0.5, "op_names": ["stem"]}], dependency_aware=True, dummy_input=batch()
    ).compress()
    assert gone(model, "stem") == expected
    assert not hasattr(model.norm, "weight_mask")  # nothing leaves, so nothing else is masked


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.g = nn.Conv2d(8, 12, 3, groups=2)
        self.b = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return self.b(torch.relu(self.g(torch.relu(self.a(x)))))


@pytest.mark.parametrize("seed", range(3))
def test_every_group_of_a_grouped_convolution_drops_equally_many(seed):
    model = randomised(Grouped(), seed)
    L1FilterPruner(
        model, [{"sparsity": 0.5, "op_types": ["default"]}], dependency_aware=True, dummy_input=batch()
    ).compress()
    assert sorted(channel // 4 for channel in gone(model, "a")) == [0, 0, 1, 1]
    assert sorted(channel // 6 for channel in gone(model, "g")) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_the_whole_choice_against_the_twin(seed):
    model, x = randomised(Residual(), seed), batch()
    asked = [{"sparsity": 0.5, "op_types": ["default"]}, {"sparsity": 0.25, "op_names": ["outer", "up"]}]
    pruner = L1FilterPruner(model, asked, dependency_aware=True, dummy_input=x)
    space = analyse(model, x)
    channels = {name: space.channels(name) for name in space.producers}
    scores = {
        name: pruner.score(model.get_submodule(name).weight.transpose(0, 1) if name == "up" else target.module.weight)
        for name, target in pruner.targets.items()
    }
    expected = twins.select_common(
        {name: own.tolist() for name, own in scores.items()},
        {name: target.sparsity for name, target in pruner.targets.items()},
        {name: own.classes.tolist() for name, own in channels.items()},
        {name: own.cells.tolist() for name, own in channels.items()},
    )
    pruner.compress()
    for name, kept in expected.items():
        assert gone(model, name) == {channel for channel, stays in enumerate(kept) if not stays}
