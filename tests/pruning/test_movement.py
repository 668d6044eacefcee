"""Movement pruning: scores trained by the gradients of masked weights, and masks that keep the highest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.pruning.training import Small, batches, train
from torchpare.attach import attach_masks, masks_of
from torchpare.errors import ConfigError
from torchpare.numerics import cubic, drop_count
from torchpare.pruning import LevelPruner, MovementPruner

ASKED = [{"sparsity": 0.5, "op_names": ["b", "head"]}]


class StraightThrough(torch.autograd.Function):
    """The mask of the highest scores, with the scores' gradient handed on as if it were the scores."""

    @staticmethod
    def forward(ctx, scores, drop):
        mask = torch.ones_like(scores)
        mask.view(-1)[scores.flatten().argsort(stable=True)[:drop]] = 0
        return mask

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def test_training_is_that_of_masks_made_from_trained_scores_straight_through():
    torch.manual_seed(0)
    model = Small().double()
    twin = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [(x.double(), y) for epoch in range(3) for x, y in batches(epoch)]
    pruner = MovementPruner(model, ASKED, optimizer, warm_up_step=2, cool_down_beginning_step=8)
    pruner.compress()
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    weights = {"b": twin.b.weight, "head": twin.head.weight}
    scores = {name: torch.zeros_like(weight).requires_grad_() for name, weight in weights.items()}
    twins = torch.optim.SGD(twin.parameters(), lr=0.1)
    adam = torch.optim.Adam(scores.values(), lr=1e-2)
    for step, (x, y) in enumerate(data):
        share = cubic(0, 0.5, (step - 2) / 6) if step > 2 else 0.0
        masked = {f"{name}.weight": weights[name] * StraightThrough.apply(own, drop_count(own.numel(), share))
                  for name, own in scores.items()}  # fmt: skip
        twins.zero_grad()
        adam.zero_grad()
        nn.functional.cross_entropy(torch.func.functional_call(twin, masked, (x,)), y).backward()
        adam.step()
        twins.step()
    for name, own in scores.items():
        torch.testing.assert_close(pruner.weight_scores[name], own)
        torch.testing.assert_close(getattr(model, name).old_weight, weights[name])
        assert int((~masks_of(model)[name]["weight"]).sum()) == drop_count(own.numel(), 0.5)


def test_what_moves_towards_zero_goes_however_large():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Identity())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[5.0, 0.1]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = MovementPruner(model, [{"sparsity": 0.5, "op_names": ["0"]}], optimizer, cool_down_beginning_step=5)
    pruner.compress()
    for _ in range(6):
        optimizer.zero_grad()
        x = torch.eye(2)
        (model(x) - torch.tensor([[0.0], [3.0]])).square().sum().backward()
        optimizer.step()
    assert masks_of(model)["0"]["weight"].tolist() == [[False, True]]


def test_a_masked_weight_can_come_back():
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    pruner = MovementPruner(model, ASKED, optimizer, cool_down_beginning_step=2)
    pruner.compress()
    seen = []
    for epoch in range(4):
        train(model, optimizer, epoch=epoch)
        seen.append(masks_of(model)["b"]["weight"])
    assert (~seen[0] & seen[-1]).any()


def test_what_was_pruned_before_stays_pruned():
    torch.manual_seed(0)
    model = Small()
    LevelPruner(model, [{"sparsity": 0.3, "op_names": ["b"]}]).compress()
    gone = ~masks_of(model)["b"]["weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    MovementPruner(model, ASKED, optimizer, train, None, 2, 0, 4).compress()
    assert not masks_of(model)["b"]["weight"][gone].any()


def test_behind_the_end_nothing_moves_and_nothing_is_watched(tmp_path):
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    pruner = MovementPruner(model, ASKED, optimizer, train, None, 2, 0, 4)
    pruner.compress()
    before = masks_of(model)
    train(model, optimizer, epoch=7)
    after = masks_of(model)
    assert all(torch.equal(before[name]["weight"], after[name]["weight"]) for name in before)
    assert "torchpare_gradient_watch" not in model.b.__dict__
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    assert not state["b.weight"][~after["b"]["weight"]].any()
    assert copy.deepcopy(model)(torch.ones(1, 1, 6, 6)).shape == (1, 2)


def test_steps_are_told_where_there_is_no_optimizer():
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    pruner = MovementPruner(model, ASKED, cool_down_beginning_step=3)
    pruner.compress()
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        pruner.step()
    assert pruner.now_step == 4
    assert int((~masks_of(model)["b"]["weight"]).sum()) == 288
    pruner.finish()
    pruner.step()
    assert pruner.now_step == 4


def test_steps_out_of_order_are_refused():
    with pytest.raises(ConfigError, match="the second comes after the first"):
        MovementPruner(Small(), ASKED, warm_up_step=5, cool_down_beginning_step=5)


def test_a_mask_that_nobody_watches_costs_no_hook():
    model = Small()
    attach_masks(model, {"b": {"weight": torch.ones(8, 1, 1, 1, dtype=torch.bool)}})
    assert model.b.weight._backward_hooks is None


@pytest.mark.parametrize(
    ("entry", "options", "shape", "axes", "left"),
    [
        ({"granularity": "2:4"}, {}, (8, 2, 4, 9), 2, {2}),
        ({"granularity": [8, 2, 3, 3], "sparsity": 0.5}, {}, (8, 4, 2, 9), (0, 2, 3), {0, 144}),
        ({"sparsity": 0.5}, {"mode": "balanced", "balance_gran": [1, 8, 3, 3]}, (8, 72), 1, {36}),
    ],
    ids=["pattern", "blocks", "balanced"],
)
def test_scores_decide_on_what_the_entry_takes_as_a_whole(entry, options, shape, axes, left):
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    pruner = MovementPruner(model, [{"op_names": ["b"], **entry}], optimizer, train, None, 2, 0, 4, **options)
    pruner.compress()
    kept = masks_of(model)["b"]["weight"]
    assert set(kept.reshape(shape).sum(axes).flatten().tolist()) == left
    if entry.get("granularity") == [8, 2, 3, 3]:
        means = pruner.weight_scores["b"].detach().double().reshape(shape).mean(axes)
        stays = kept.reshape(shape).sum(axes) > 0
        assert means[stays].min() > means[~stays].max()


def test_all_layers_share_what_goes_where_the_mode_says_so():
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    pruner = MovementPruner(model, ASKED, optimizer, train, None, 2, 0, 4, mode="global")
    pruner.compress()
    kept = torch.cat([masks_of(model)[name]["weight"].flatten() for name in ("b", "head")])
    scores = torch.cat([pruner.weight_scores[name].detach().flatten() for name in ("b", "head")])
    assert int((~kept).sum()) == drop_count(576 + 16, 0.5)
    assert scores[kept].min() >= scores[~kept].max()
