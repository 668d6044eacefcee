"""Pruners of NNI 2.5 to 2.10 that go in rounds: how much in each, which is best, what becomes small."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from nni.compression.pytorch import TorchEvaluator
from nni.compression.pytorch.pruning import (
    AGPPruner,
    LinearPruner,
    LotteryTicketPruner,
    PruningScheduler,
    SlimPruner,
)
from nni.compression.pytorch.pruning.tools import LinearTaskGenerator

from tests.support.rounds import ASKED, X, net, pruned, rounds, sgd, train
from torchpare.errors import ConfigError


def test_linear_rounds_prune_as_much_each():
    seen, _, model, masks = rounds(LinearPruner, 4)
    assert seen == [16 * 0.75 * at / 4 for at in (1, 2, 3, 4)]
    assert pruned(model) == 12
    assert masks["0"]["weight"].mean() == 0.25


def test_agp_rounds_follow_its_cubic():
    seen, *_ = rounds(AGPPruner, 4)
    assert seen == [int(16 * 0.75 * (1 - (1 - at / 4) ** 3)) for at in (1, 2, 3, 4)]


@pytest.mark.parametrize("reset", [True, False])
def test_lottery_rounds_compound_and_begin_anew(reset):
    start = copy.deepcopy(net().state_dict())
    dense = []

    def finetuner(model):
        left = (model[0].weight != 0).flatten(1).any(dim=1)
        dense.append((pruned(model), bool(torch.equal(model[0].weight[left], start["0.weight"][left]))))
        with torch.no_grad():
            dict(model.named_parameters())["0.weight"].mul_(1.01)

    pruner = LotteryTicketPruner(net(), ASKED, "l1", 2, finetuner=finetuner, reset_weight=reset)
    model, _ = pruner.compress()
    assert [count for count, _ in dense] == [0, 8, 12]
    assert [same for _, same in dense] == [True, reset, reset]
    assert pruned(model) == 12
    assert pruner.compress()[0] is model
    assert len(dense) == 3


def test_the_best_round_is_remembered_with_its_model_masks_and_config():
    scores = iter([0.5, 0.9, 0.7])
    seen, pruner, model, _ = rounds(LinearPruner, 3, evaluator=lambda model: next(scores))
    at, best, masks, score, config_list = pruner.get_best_result()
    assert (at, score) == (2, 0.9)
    assert config_list == [{"op_names": ["0"], "sparsity": pytest.approx(0.5)}]
    assert pruned(best) == seen[1] == 8
    assert float(masks["0"]["bias"].sum()) == 8
    assert pruned(model) == 12


def test_without_an_evaluation_the_last_round_is_the_best():
    _, pruner, model, _ = rounds(LinearPruner, 3)
    at, best, _, score, _ = pruner.get_best_result()
    assert (at, score) == (3, None)
    assert best is model


@pytest.mark.parametrize("kind", [AGPPruner, LinearPruner, LotteryTicketPruner])
def test_with_speedup_the_model_is_small_behind_the_last_round(kind, tmp_path):
    _, pruner, model, masks = rounds(kind, 2, speedup=True, dummy_input=X)
    assert model[0].out_channels == 4
    assert masks["0"]["bias"].sum() == 4
    model(X)
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    assert torch.load(tmp_path / "mask.pth")["0"]["bias"].sum() == 4


@pytest.mark.parametrize("kind", [AGPPruner, LinearPruner, LotteryTicketPruner])
def test_with_speedup_the_best_round_is_small_too_whichever_it_is(kind):
    scores = iter([0.9, 0.5])
    _, pruner, model, _ = rounds(kind, 2, speedup=True, dummy_input=X, evaluator=lambda model: next(scores))
    at, best, masks, score, _ = pruner.get_best_result()
    assert (at, score) == (1, 0.9)
    assert best[0].out_channels == int(masks["0"]["bias"].sum())
    assert model[0].out_channels == 4 < best[0].out_channels < 16
    assert best(X).shape == model(X).shape


def test_criteria_that_look_at_data_see_it_in_each_round():
    passes = []

    def trainer(model, optimizer, criterion):
        passes.append(1)
        train(model, optimizer, criterion)

    model = net()
    parameters = {"trainer": trainer, "traced_optimizer": sgd(model), "criterion": F.cross_entropy,
                  "training_batches": 1}  # fmt: skip
    LinearPruner(model, ASKED, "taylorfo", 3, pruning_params=parameters).compress()
    assert len(passes) == 3
    assert pruned(model) == 12


def test_an_evaluator_fine_tunes_and_judges_rounds():
    model = net()
    seen = []

    def training_func(model, optimizers, criterion, lr_schedulers, max_steps, max_epochs):
        seen.append(max_steps)
        for _ in range(max_steps or 2):
            train(model, optimizers, criterion)

    evaluator = TorchEvaluator(training_func, sgd(model), F.cross_entropy, dummy_input=X,
                               evaluating_func=lambda model: 1 / (1 + pruned(model)))  # fmt: skip
    pruner = AGPPruner(model, ASKED, "apoz", 2, evaluator=evaluator, speedup=True,
                       pruning_params={"evaluator": evaluator, "training_steps": 3})  # fmt: skip
    small, _ = pruner.compress()
    assert seen == [3, None, 3, None]
    assert small[0].out_channels == 4
    assert pruner.get_best_result()[3] == 1 / (1 + 10)


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ({"pruning_params": {"mode": "globl"}}, ConfigError, "mode is 'globl'; it is one of 'normal'"),
        ({"pruning_params": {"iterations": 3}}, ConfigError, "there is no such thing"),
        ({"speedup": True}, ConfigError, "speedup=True makes the model small, which needs dummy_input"),
        ({"depth": 3}, ConfigError, r"unexpected keyword argument 'depth'; .* it takes \(pruning_algorithm"),
    ],
)
def test_what_rounds_cannot_do_is_refused(named, error, message):
    with pytest.raises(error, match=message):
        AGPPruner(net(), ASKED, "l1", 2, **named)


def test_rounds_of_layers_that_share_what_goes():
    model = net()
    with torch.no_grad():
        model[3].weight.mul_(1e-3)
    everywhere = [{"op_types": ["Conv2d"], "total_sparsity": 0.5, "max_sparsity_per_layer": 0.75}]
    AGPPruner(model, everywhere, "l1", 3, pruning_params={"mode": "global"}).compress()
    assert int((model[3].weight.flatten(1) == 0).all(dim=1).sum()) == 6
    assert pruned(model) == 6


@pytest.mark.parametrize("by", ["trainer", "evaluator", "scheduler"])
def test_rounds_of_slimming_train_the_scales_towards_zero(by):
    left = []
    for scale in (0.0, 1.0):
        model, norms, epochs = net(), [{"op_types": ["BatchNorm2d"], "total_sparsity": 0.5}], []
        optimizer = sgd(model)

        def trainer(model, optimizer, criterion, epochs=epochs):
            epochs.append(1)
            train(model, optimizer, criterion)

        def training(model, optimizer, criterion, schedulers, max_steps, max_epochs, trainer=trainer):
            for _ in range(max_epochs):
                trainer(model, optimizer, criterion)

        if by == "scheduler":
            slim = SlimPruner(model, norms, trainer, optimizer, F.cross_entropy, 2, scale)
            PruningScheduler(slim, LinearTaskGenerator(3, model, norms)).compress()
        else:
            own = {"trainer": trainer, "traced_optimizer": optimizer, "criterion": F.cross_entropy}
            own = own if by == "trainer" else {"evaluator": TorchEvaluator(training, optimizer, F.cross_entropy)}
            LinearPruner(
                model, norms, "slim", 3, pruning_params={**own, "training_epochs": 2, "scale": scale}
            ).compress()
        assert len(epochs) == 6
        assert int((model[1].weight == 0).sum()) == 8
        left.append(float(model[1].old_weight.detach().abs().sum()))
    assert left[1] < 0.9 * left[0]


@pytest.mark.parametrize("places", ["before", "behind", "name"])
@pytest.mark.parametrize("by_evaluator", [False, True])
def test_reset_weight_stands_before_or_behind_the_parameters(places, by_evaluator):
    model = net()
    evaluator = TorchEvaluator(lambda *_: None, sgd(model), dummy_input=X)
    first = ("level", 2, ".", False, *((evaluator, False) if by_evaluator else (None, False, X, None)))
    last = {"before": (False, {"mode": "normal"}), "behind": ({"mode": "normal"}, False), "name": ()}[places]
    named = {"reset_weight": False} if places == "name" else {}
    pruner = LotteryTicketPruner(model, ASKED, *first, *last, **named)
    assert (pruner.reset_weights, pruner.rounds) == (False, 2)
    assert LotteryTicketPruner(model, ASKED, *first).reset_weights
