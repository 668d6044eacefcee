"""Layers that need a word: parametrized, lazy, tied and shared ones, and every kind that a pruner says it handles."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from torchpare.attach import is_attached, masks_of
from torchpare.config import FILTERED, WEIGHTED
from torchpare.errors import ConfigError
from torchpare.pruning import FilterPruner, FPGMPruner, L1FilterPruner, L2FilterPruner, LevelPruner

MAKE = {
    nn.Conv1d: lambda: nn.Conv1d(2, 4, 3),
    nn.Conv2d: lambda: nn.Conv2d(2, 4, 3),
    nn.Conv3d: lambda: nn.Conv3d(2, 4, 3),
    nn.ConvTranspose1d: lambda: nn.ConvTranspose1d(2, 4, 3),
    nn.ConvTranspose2d: lambda: nn.ConvTranspose2d(4, 4, 3, groups=2),
    nn.ConvTranspose3d: lambda: nn.ConvTranspose3d(2, 4, 3),
    nn.Linear: lambda: nn.Linear(6, 4),
    nn.Bilinear: lambda: nn.Bilinear(3, 3, 4),
    nn.PReLU: lambda: nn.PReLU(4),
    nn.Embedding: lambda: nn.Embedding(6, 4),
    nn.EmbeddingBag: lambda: nn.EmbeddingBag(6, 4),
}


@pytest.mark.parametrize("kind", WEIGHTED, ids=lambda kind: kind.__name__)
def test_single_weights_of_every_kind_are_pruned_exactly(kind):
    model = nn.Sequential(MAKE[kind]())
    nn.init.normal_(model[0].weight)
    LevelPruner(model, [{"sparsity": 0.5, "op_types": [kind.__name__]}]).compress()
    mask = masks_of(model)["0"]["weight"]
    assert int((~mask).sum()) == mask.numel() // 2
    dense = model[0].old_weight.detach().abs()
    assert dense[~mask].max() <= dense[mask].min()


@pytest.mark.parametrize("pruner", [L1FilterPruner, L2FilterPruner, FPGMPruner])
@pytest.mark.parametrize("kind", FILTERED, ids=lambda kind: kind.__name__)
def test_filters_of_every_kind_are_pruned_exactly(kind, pruner):
    model = nn.Sequential(MAKE[kind]())
    pruner(model, [{"sparsity": 0.5, "op_types": [kind.__name__]}]).compress()
    assert masks_of(model)["0"]["bias"].sum() == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pruner", [LevelPruner, L1FilterPruner, FPGMPruner])
def test_every_precision_is_pruned(pruner, dtype):
    model = nn.Sequential(nn.Conv2d(2, 4, 3)).to(dtype)
    pruner(model, [{"sparsity": 0.5, "op_types": ["default"]}]).compress()
    assert model[0].weight.dtype == dtype
    assert int((model[0].weight != 0).sum()) == model[0].old_weight.numel() // 2


def test_a_parametrized_layer_is_refused_with_the_remedy():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 4, 3)))
    with pytest.raises(ConfigError, match=r"0, a ParametrizedConv2d, has no parameter 'weight'.*remove that first"):
        L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["0"]}])


def test_a_lazy_layer_is_refused_until_it_has_run():
    model = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(ConfigError, match="run the model once"):
        L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["0"]}])
    model(torch.ones(1, 2, 5, 5))
    L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["default"]}]).compress()
    assert is_attached(model)


class LargestFirst(FilterPruner):
    def score(self, weight):
        return -weight.flatten(1).norm(dim=1)


def test_what_is_gone_goes_first_whatever_the_score_of_zeros():
    model = nn.Sequential(nn.Conv2d(2, 8, 3))
    LargestFirst(model, [{"sparsity": 0.25, "op_types": ["default"]}]).compress()
    first = masks_of(model)["0"]["bias"]
    LargestFirst(model, [{"sparsity": 0.5, "op_types": ["default"]}]).compress()
    second = masks_of(model)["0"]["bias"]
    assert (int(first.sum()), int(second.sum())) == (6, 4)
    assert not (second & ~first).any()


def test_a_frozen_layer_is_pruned_like_any_other():
    model = nn.Sequential(nn.Conv2d(2, 4, 3)).requires_grad_(False)
    L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["default"]}]).compress()
    assert not model[0].old_weight.requires_grad
    assert not model[0].weight.requires_grad


def test_tied_weights_are_pruned_once_and_masked_everywhere():
    model = nn.ModuleDict({"embed": nn.Embedding(6, 4), "head": nn.Linear(4, 6)})
    model["head"].weight = model["embed"].weight
    pruner = LevelPruner(model, [{"sparsity": 0.5, "op_types": ["Embedding"]}])
    pruner.compress()
    masks = pruner.get_masks()
    assert int(masks["embed"]["weight"].sum()) == 12
    assert torch.equal(masks["embed"]["weight"], masks["head"]["weight"])


def test_a_shared_layer_is_pruned_once():
    shared = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    x = torch.randn(1, 4, 3, 3)
    L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["2"]}], dummy_input=x).compress()
    assert int(masks_of(model)["0"]["bias"].sum()) == 2
    assert torch.equal(model(x) != 0, (model(x) != 0) & masks_of(model)["0"]["bias"][:, None, None])
