"""Lottery tickets: rounds that begin where the first one began, with what is left."""

from __future__ import annotations

import pytest
import torch

from tests.pruning.training import Small, train
from torchpare import ModelSpeedup
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError, MaskError
from torchpare.numerics import drop_count
from torchpare.pruning import LotteryTicketPruner

ASKED = [{"sparsity": 0.8, "prune_iterations": 3, "op_types": ["Conv2d"]}]


def setting(**options):
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    pruner = LotteryTicketPruner(model, ASKED, optimizer, scheduler, **options)
    pruner.compress()
    return model, optimizer, scheduler, pruner


def dense(model, layer):
    return getattr(model, layer)._parameters["weight"].detach().clone()


def test_each_round_prunes_the_same_share_of_what_is_left_and_goes_back_to_the_start():
    model, optimizer, scheduler, pruner = setting()
    start = {layer: dense(model, layer) for layer in ("a", "b")}
    counts = []
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        for layer, weight in start.items():
            assert torch.equal(dense(model, layer), weight)
        assert model.norm_a.num_batches_tracked == 0
        assert not optimizer.state
        assert scheduler.get_last_lr() == [0.1]
        counts.append(int((~masks_of(model)["b"]["weight"]).sum()) if is_attached(model) else 0)
        for epoch in range(2):
            train(model, optimizer, epoch=epoch)
            scheduler.step()
    assert counts == [drop_count(576, 1 - 0.2 ** (at / 3)) for at in range(4)]


def test_what_goes_is_small_behind_training_not_at_the_start():
    model, optimizer, _, pruner = setting()
    pruner.prune_iteration_start()
    train(model, optimizer)
    with torch.no_grad():
        model.b.weight.copy_(torch.arange(576.0).view(8, 8, 3, 3))
    pruner.prune_iteration_start()
    assert (~masks_of(model)["b"]["weight"]).flatten().nonzero().flatten().tolist() == list(
        range(drop_count(576, 1 - 0.2 ** (1 / 3)))
    )


def test_weights_may_go_on_instead():
    model, optimizer, _, pruner = setting(reset_weights=False)
    pruner.prune_iteration_start()
    train(model, optimizer)
    trained = dense(model, "b")
    pruner.prune_iteration_start()
    assert torch.equal(dense(model, "b"), trained)


def test_rewinding_to_a_later_epoch():
    model, optimizer, _, pruner = setting(rewind_epoch=2)
    pruner.prune_iteration_start()
    for epoch in range(4):
        pruner.update_epoch(epoch)
        if epoch == 2:
            then = dense(model, "b")
        train(model, optimizer, epoch=epoch)
    pruner.prune_iteration_start()
    assert torch.equal(dense(model, "b"), then)
    pruner.update_epoch(2)
    train(model, optimizer)
    pruner.prune_iteration_start()
    assert torch.equal(dense(model, "b"), then)


def test_without_an_optimizer_the_weights_are_rewound_alone():
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = LotteryTicketPruner(model, ASKED)
    pruner.compress()
    start = dense(model, "a")
    pruner.prune_iteration_start()
    train(model, optimizer)
    pruner.prune_iteration_start()
    assert torch.equal(dense(model, "a"), start)


def test_what_is_out_of_order_says_so():
    with pytest.raises(MaskError, match=r"call compress\(\)"):
        LotteryTicketPruner(Small(), ASKED).prune_iteration_start()
    _, _, _, pruner = setting(rewind_epoch=5)
    pruner.prune_iteration_start()
    with pytest.raises(MaskError, match=r"update_epoch\(5\) was not called"):
        pruner.prune_iteration_start()
    _, _, _, pruner = setting()
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
    with pytest.raises(MaskError, match="all 4 rounds are over"):
        pruner.prune_iteration_start()
    with pytest.raises(ConfigError, match=r"'prune_iterations' \(2, 3\)"):
        LotteryTicketPruner(Small(), [{"sparsity": 0.5, "prune_iterations": 2, "op_names": ["a"]},
                                      {"sparsity": 0.5, "prune_iterations": 3, "op_names": ["b"]}])  # fmt: skip
    with pytest.raises(ConfigError, match="give 1 to prune once"):
        LotteryTicketPruner(Small(), [{"sparsity": 0.5, "prune_iterations": 0, "op_names": ["a"]}])


@pytest.mark.parametrize("criterion", ["l1", "taylorfo"])
def test_tickets_of_filters_shrink(criterion):
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.ones(2, 1, 6, 6)
    asked = [{"sparsity": 0.5, "prune_iterations": 2, "op_types": ["Conv2d"]}]
    pruner = LotteryTicketPruner(model, asked, optimizer, pruning_algorithm=criterion, dummy_input=x)
    pruner.compress()
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        train(model, optimizer)
    report = ModelSpeedup(model, x).speedup_model()
    assert report.exact
    assert model.b.weight.shape == (4, 4, 3, 3)
