"""Network slimming: scales that are trained to be sparse, ranked over the whole model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.pruning.training import Small, batches, train
from torchpare import ModelSpeedup
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError
from torchpare.files.masks import load_masks
from torchpare.pruning import SlimPruner

HALF = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]


def scaled(a, b):
    model = Small()
    with torch.no_grad():
        model.norm_a.weight.copy_(torch.tensor(a))
        model.norm_b.weight.copy_(torch.tensor(b))
    return model


def test_the_smallest_scales_of_all_norms_together_go():
    model = scaled([0.1, 9, 9, 9, 9, 9, 9, 9], [-0.2, 0.1, 0.3, 0.4, -0.5, 0.6, 0.7, -8])
    SlimPruner(model, HALF).compress()
    masks = masks_of(model)
    assert masks["norm_a"]["weight"].tolist() == [False] + [True] * 7
    assert masks["norm_b"]["weight"].tolist() == [False] * 7 + [True]
    assert torch.equal(masks["norm_a"]["weight"], masks["norm_a"]["bias"])


def test_a_norm_keeps_its_best_channel():
    model = scaled([0.01 * at for at in range(8)], [9.0] * 8)
    SlimPruner(model, [{"sparsity": 0.75, "op_types": ["default"]}]).compress()
    masks = masks_of(model)
    assert masks["norm_a"]["weight"].tolist() == [False] * 7 + [True]
    assert int((~masks["norm_b"]["weight"]).sum()) == 5


def test_training_adds_the_gradient_of_the_scales_size_before_each_step():
    torch.manual_seed(0)
    model = Small()
    twin = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    SlimPruner(model, HALF, optimizer, train, None, sparsifying_training_epochs=2, scale=0.05).compress()
    twins = torch.optim.SGD(twin.parameters(), lr=0.1)
    for epoch in range(2):
        for x, y in batches(epoch):
            twins.zero_grad()
            loss = nn.functional.cross_entropy(twin(x), y)
            (loss + 0.05 * (twin.norm_a.weight.abs().sum() + twin.norm_b.weight.abs().sum())).backward()
            twins.step()
    torch.testing.assert_close(model.norm_a.old_weight, twin.norm_a.weight)
    torch.testing.assert_close(model.norm_b.old_weight, twin.norm_b.weight)
    torch.testing.assert_close(model.a.weight[masks_of(model)["norm_a"]["weight"]],
                               twin.a.weight[masks_of(model)["norm_a"]["weight"]])  # fmt: skip


def test_scripts_that_train_themselves_add_the_gradient_themselves():
    model = Small()
    pruner = SlimPruner(model, HALF, scale=0.5)
    model.norm_a.weight.grad = torch.zeros(8)
    pruner.sparsify()
    assert model.norm_a.weight.grad.tolist() == [0.5] * 8
    assert model.norm_b.weight.grad is None
    assert not is_attached(model)


@pytest.mark.parametrize(
    ("config_list", "options", "message"),
    [
        ([{"sparsity": 0.5, "op_names": ["norm_a"]}, {"sparsity": 0.2, "op_names": ["norm_b"]}], {}, "0.2, 0.5"),
        (HALF, {"dependency_aware": True, "dummy_input": torch.ones(1, 1, 6, 6)}, "leave dependency_aware out"),
        ([{"sparsity": 0.5, "op_types": ["Conv2d"]}], {}, "cannot be pruned by SlimPruner"),
    ],
)
def test_what_cannot_be_ranked_together_is_refused(config_list, options, message):
    with pytest.raises(ConfigError, match=message):
        SlimPruner(Small(), config_list, **options)


@pytest.mark.parametrize("example", [None, torch.ones(2, 1, 6, 6)], ids=["first batch", "example input"])
def test_prune_train_shrink(example, tmp_path):
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = SlimPruner(model, HALF, optimizer, train, None, 2, 0.01, dummy_input=example)
    pruner.compress()
    train(model, optimizer, epoch=3)
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    left = int(masks_of(model)["norm_a"]["weight"].sum())
    report = ModelSpeedup(model, torch.ones(2, 1, 6, 6)).speedup_model()
    assert report.exact
    assert (model.a.out_channels, model.b.in_channels) == (left, left)
    assert model.a.out_channels + model.b.out_channels == 8
    assert load_masks(tmp_path / "mask.pth").keys() >= {"a", "norm_a", "norm_b"}


def test_later_versions_give_the_trainer_first():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    half = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]
    pruner = SlimPruner(model, half, train, optimizer, None, training_epochs=2)
    assert (pruner.training.trainer, pruner.training.optimizer, pruner.epochs) == (train, optimizer, 2)


def test_each_norm_loses_its_own_share_where_the_mode_says_so():
    small, large = [0.01 * at for at in range(1, 9)], [9.0 - at for at in range(8)]
    asked = [{"sparsity": 0.25, "op_names": ["norm_a"]}, {"sparsity": 0.5, "op_names": ["norm_b"]}]
    model = scaled(small, large)
    SlimPruner(model, asked, mode="normal").compress()
    masks = masks_of(model)
    assert masks["norm_a"]["weight"].tolist() == [False] * 2 + [True] * 6
    assert masks["norm_b"]["weight"].tolist() == [True] * 4 + [False] * 4
    together = scaled(small, large)
    SlimPruner(together, HALF, mode="global").compress()
    assert int((~masks_of(together)["norm_a"]["weight"]).sum()) == 7  # all but one, and one of the other norm


def test_scripts_of_later_versions_give_the_mode_behind_the_scale():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = SlimPruner(model, HALF, train, optimizer, None, 1, 1e-3, "normal")
    assert (pruner.mode, pruner.scale, pruner.epochs) == ("normal", 1e-3, 1)
    with pytest.raises(ConfigError, match=r"mode is 'balanced'; it is 'global'.*'normal'"):
        SlimPruner(model, HALF, mode="balanced")
    with pytest.raises(ConfigError, match="leave dependency_aware out"):
        SlimPruner(model, HALF, mode="dependency_aware", dummy_input=torch.ones(1, 1, 6, 6))
