"""ADMM: the penalty's gradient, the projections, and what they do to weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.pruning.training import Small, batches, train
from torchpare import ModelSpeedup
from torchpare.attach import masks_of
from torchpare.errors import ConfigError
from torchpare.pruning import ADMMPruner, L1FilterPruner, L2FilterPruner, LevelPruner

ASKED = [{"sparsity": 0.5, "op_names": ["b"]}]


def test_training_is_that_of_the_loss_with_the_penalty_written_out():
    torch.manual_seed(0)
    model = Small()
    twin = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Three iterations: what the second one projects, and adds up, shows in the third.
    ADMMPruner(model, ASKED, train, None, 3, 2, 0.3, "level", optimizer=optimizer).compress()
    twins = torch.optim.SGD(twin.parameters(), lr=0.1)
    near, debt = twin.b.weight.detach().clone(), torch.zeros_like(twin.b.weight)
    for _ in range(3):
        for epoch in range(2):
            for x, y in batches(epoch):
                twins.zero_grad()
                loss = nn.functional.cross_entropy(twin(x), y)
                (loss + 0.3 / 2 * (twin.b.weight - near + debt).square().sum()).backward()
                twins.step()
        moved = twin.b.weight.detach() + debt
        smallest = moved.abs().flatten().argsort()[:288]
        near = moved.clone()
        near.view(-1)[smallest] = 0
        debt = debt + twin.b.weight.detach() - near
    torch.testing.assert_close(model.b.old_weight, twin.b.weight, rtol=1e-5, atol=1e-6)


def test_weights_that_go_have_become_small_before():
    def share_of_what_goes(row):
        torch.manual_seed(0)
        model = Small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ADMMPruner(model, ASKED, train, None, 6, 2, row, "l1", optimizer=optimizer).compress()
        mask = masks_of(model)["b"]["weight"].expand(8, 8, 3, 3)
        weight = model.b.old_weight.detach()
        return float(weight[~mask].abs().sum() / weight.abs().sum())

    assert share_of_what_goes(1.0) < 0.6 * share_of_what_goes(0.0)


def test_of_blocks_only_those_are_pulled_that_will_go():
    def without_a_loss(model, optimizer, criterion, epoch):
        for _ in range(3):
            optimizer.zero_grad()
            (0 * model.b.weight).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = Small()
    before = model.b.weight.detach().clone()
    blocks = before.abs().reshape(2, 4, 2, 4, 9).mean((1, 3, 4))
    stays = blocks >= blocks.flatten().sort().values[2]
    stays = stays.repeat_interleave(4, 0).repeat_interleave(4, 1)[..., None, None].expand_as(before)
    asked = [{"sparsity": 0.5, "op_names": ["b"], "granularity": [4, 4]}]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ADMMPruner(model, asked, without_a_loss, None, 2, 1, 1.0, "level", optimizer=optimizer).compress()
    after = model.b.old_weight.detach()
    assert torch.equal(after[stays], before[stays])
    assert (after[~stays].abs() < before[~stays].abs()).all()
    assert torch.equal(model.b.weight_mask, stays)


def test_prune_train_shrink():
    torch.manual_seed(0)
    model, x = Small(), torch.ones(2, 1, 6, 6)
    ADMMPruner(model, ASKED, train, num_iterations=2, training_epochs=1, dummy_input=x).compress()
    train(model, torch.optim.SGD(model.parameters(), lr=0.05))
    report = ModelSpeedup(model, x).speedup_model()
    assert report.exact
    assert model.b.weight.shape == (4, 8, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainer": None}, "give a trainer"),
        ({"trainer": train, "base_algo": "taylorfo"}, "cannot tell"),
        ({"trainer": train, "num_iterations": 0}, "above 0"),
    ],
)
def test_what_cannot_work_says_so(options, message):
    with pytest.raises(ConfigError, match=message):
        ADMMPruner(Small(), ASKED, **options)


def test_later_versions_give_the_optimizer_behind_the_trainer():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = torch.nn.functional.cross_entropy
    entry = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
    pruner = ADMMPruner(model, entry, train, optimizer, loss, 3, 2)
    assert (pruner.num_iterations, pruner.epochs_per_iteration, pruner.row) == (3, 2, 1e-4)
    assert (pruner.training.trainer, pruner.training.optimizer, pruner.training.criterion) == (train, optimizer, loss)


@pytest.mark.parametrize(
    ("arguments", "named", "expected"),
    [
        ((3, 2, 1e-3, "l2"), {}, (3, 2, 1e-3, L2FilterPruner)),
        ((3, 2, 1e-3), {"base_algo": "level"}, (3, 2, 1e-3, LevelPruner)),
        ((3, 2), {"row": 1e-3}, (3, 2, 1e-3, L1FilterPruner)),
        ((3,), {"training_epochs": 2, "row": 1e-3, "base_algo": "l2"}, (3, 2, 1e-3, L2FilterPruner)),
        ((3,), {}, (3, 5, 1e-4, L1FilterPruner)),
    ],
)
def test_earlier_versions_give_no_criterion(arguments, named, expected):
    pruner = ADMMPruner(Small(), ASKED, train, *arguments, **named)
    assert (pruner.num_iterations, pruner.epochs_per_iteration, pruner.row, type(pruner.ranking)) == expected
    assert isinstance(pruner.training.criterion, nn.CrossEntropyLoss)


def test_without_an_optimizer_it_trains_by_adam_for_as_many_epochs_as_all_iterations_have():
    epochs = []
    model = Small()

    def watched(model, optimizer, criterion, epoch):
        epochs.append(epoch)
        assert isinstance(optimizer, torch.optim.Adam)
        assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(1e-3, 5e-5)]
        train(model, optimizer, criterion, epoch)

    ADMMPruner(model, ASKED, watched, num_iterations=2, epochs_per_iteration=3).compress()
    assert epochs == [0, 1, 2] * 2
