"""Pruners of NNI 2.5 to 2.10 that go in rounds or search: how much in each round, which is best, what becomes small."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from nni.compression.pytorch import TorchEvaluator
from nni.compression.pytorch.pruning import (
    ActivationMeanRankPruner,
    AGPPruner,
    AMCPruner,
    AutoCompressPruner,
    L1NormPruner,
    LinearPruner,
    LotteryTicketPruner,
    MovementPruner,
    PruningScheduler,
    SimulatedAnnealingPruner,
    SlimPruner,
    TaylorFOWeightPruner,
)
from nni.compression.pytorch.pruning.tools import AGPTaskGenerator, LinearTaskGenerator, LotteryTicketTaskGenerator
from torch import nn

from torchpare.errors import CompatError, ConfigError

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(),
                         nn.Linear(128, 3))  # fmt: skip


ASKED = [{"op_names": ["0"], "sparsity": 0.75}]


def pruned(model):
    return int((model[0].weight.flatten(1) == 0).all(dim=1).sum())


def train(model, optimizer, criterion):
    optimizer.zero_grad()
    criterion(model(X), Y).backward()
    optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05)


def rounds(kind, total, **named):
    """The filters that are gone when each round is fine-tuned."""
    seen = []
    pruner = kind(net(), ASKED, "l1", total, finetuner=lambda model: seen.append(pruned(model)), **named)
    model, masks = pruner.compress()
    return seen, pruner, model, masks


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
        ({"pruning_params": {"mode": "global"}}, CompatError, r"\['mode'\] is 'global'; in rounds it is 'normal'"),
        ({"pruning_params": {"iterations": 3}}, ConfigError, "there is no such thing"),
        ({"speedup": True}, ConfigError, "speedup=True makes the model small, which needs dummy_input"),
        ({"depth": 3}, ConfigError, r"unexpected keyword argument 'depth'; .* it takes \(pruning_algorithm"),
    ],
)
def test_what_rounds_cannot_do_is_refused(named, error, message):
    with pytest.raises(error, match=message):
        AGPPruner(net(), ASKED, "l1", 2, **named)


def score(model):
    model.eval()
    with torch.no_grad():
        return float(model(X).std())


def test_annealing_masks_the_model_that_it_was_given_and_makes_it_small(tmp_path):
    model = net()
    pruner = SimulatedAnnealingPruner(
        model, [{"op_types": ["Conv2d"], "total_sparsity": 0.4}], score, 100, 95, pruning_algorithm="l1",
        log_dir=str(tmp_path), speedup=True, dummy_input=X,
    )  # fmt: skip
    small, masks = pruner.compress()
    assert small is model
    assert sum(parameter.numel() for parameter in small.parameters()) < sum(p.numel() for p in net().parameters())
    assert masks
    assert pruner.get_best_result()[1] is model
    assert (tmp_path / "search_result.json").exists()
    evaluator = TorchEvaluator(train, sgd(model), dummy_input=X, evaluating_func=score)
    with pytest.raises(CompatError, match="'depth' has no counterpart among the parameters of a search"):
        SimulatedAnnealingPruner(net(), ASKED, evaluator, pruning_params={"depth": 3}, log_dir=str(tmp_path))


def test_auto_compress_trains_and_shrinks(tmp_path):
    model = net()
    admm = {"trainer": train, "criterion": F.cross_entropy, "iterations": 1, "training_epochs": 1}
    annealing = {"evaluator": score, "start_temperature": 100, "stop_temperature": 95}
    asked = [{"op_types": ["Conv2d"], "total_sparsity": 0.4}]
    pruner = AutoCompressPruner(model, asked, 1, admm, annealing, log_dir=str(tmp_path), dummy_input=X)
    small, masks = pruner.compress()
    assert small is model
    assert model[0].out_channels < 16 or model[3].out_channels < 8
    assert masks
    evaluator = TorchEvaluator(train, sgd(model))
    with pytest.raises(CompatError, match="AutoCompressPruner trains candidates"):
        AutoCompressPruner(net(), asked, 1, {"evaluator": evaluator}, annealing, dummy_input=X)


def test_amc_takes_its_later_arguments(tmp_path):
    asked = [{"op_types": ["Conv2d"], "total_sparsity": 0.4}]
    pruner = AMCPruner(3, net(), asked, X, score, log_dir=str(tmp_path), ddpg_params={"warmup": 2}, target="params")
    assert pruner.train_episode == 3
    assert pruner.objective.metric == "params"
    assert pruner.sparsity == 0.4


def by_trainer(model):
    return {"trainer": train, "traced_optimizer": sgd(model), "criterion": F.cross_entropy}


@pytest.mark.parametrize(
    "make",
    [
        lambda m: TaylorFOWeightPruner(m, ASKED, **by_trainer(m), training_batches=1),
        lambda m: TaylorFOWeightPruner(m, ASKED, train, sgd(m), F.cross_entropy, 1, "dependency_aware", X),
        lambda m: ActivationMeanRankPruner(m, ASKED, train, optimizer=sgd(m), criterion=F.cross_entropy,
                                           training_batches=1, activation="relu6"),
    ],
)  # fmt: skip
def test_trainers_of_2_5_take_no_epoch(make):
    model = net()
    make(model).compress()
    assert pruned(model) == 12


def test_scales_and_scores_are_trained_by_trainers_without_epochs():
    model = net()
    SlimPruner(model, [{"op_types": ["BatchNorm2d"], "total_sparsity": 0.5}], **by_trainer(model), training_epochs=2,
               mode="global").compress()  # fmt: skip
    assert int((model[1].weight == 0).sum()) == 8
    model = net()
    MovementPruner(model, [{"op_types": ["Linear"], "sparsity": 0.5}], **by_trainer(model), training_epochs=3,
                   warm_up_step=0, cool_down_beginning_step=2).compress()  # fmt: skip
    assert float((model[5].weight == 0).float().mean()) == 0.5
    evaluator = TorchEvaluator(train, sgd(model))
    with pytest.raises(CompatError, match="soft movement"):
        MovementPruner(net(), [{"op_types": ["Linear"], "sparsity": 0.5}], evaluator, 1, 2, movement_mode="soft")


@pytest.mark.parametrize("generator", [LinearTaskGenerator, AGPTaskGenerator, LotteryTicketTaskGenerator])
def test_a_scheduler_does_what_the_pruner_of_its_rounds_does(generator):
    kind = {LinearTaskGenerator: LinearPruner, AGPTaskGenerator: AGPPruner}.get(generator, LotteryTicketPruner)
    seen, pruner, *_ = rounds(kind, 3)
    by_scheduler = []
    model = net()
    scheduler = PruningScheduler(
        L1NormPruner(model, ASKED), generator(3, model, ASKED),
        finetuner=lambda model: by_scheduler.append(pruned(model)),
    )  # fmt: skip
    scheduler.compress()
    assert by_scheduler == seen
    _, best, masks, _, config_list = scheduler.get_best_result()
    assert best is model
    assert config_list == pruner.get_best_result()[4]
    assert torch.equal(masks["0"]["weight"], pruner.get_best_result()[2]["0"]["weight"])


def test_a_scheduler_shows_data_and_shrinks():
    model = net()
    by = TaylorFOWeightPruner(model, ASKED, train, sgd(model), F.cross_entropy, 1)
    generator = AGPTaskGenerator(total_iteration=2, origin_model=model, origin_config_list=ASKED)
    scheduler = PruningScheduler(by, generator, speed_up=True, dummy_input=X, evaluator=score)
    scheduler.compress()
    assert model[0].out_channels == 4
    assert scheduler.get_best_result()[0] in (1, 2)


def test_what_a_scheduler_cannot_do_is_refused():
    model = net()
    generator = LinearTaskGenerator(2, model, ASKED)
    movement = MovementPruner(model, [{"op_types": ["Linear"], "sparsity": 0.5}], **by_trainer(model),
                              training_epochs=1, warm_up_step=0, cool_down_beginning_step=1)  # fmt: skip
    with pytest.raises(CompatError, match="rounds prune by LevelPruner"):
        PruningScheduler(movement, generator)
    with pytest.raises(ConfigError, match="reset_weight goes with a LotteryTicketTaskGenerator"):
        PruningScheduler(L1NormPruner(model, ASKED), generator, reset_weight=True)
    with pytest.raises(CompatError, match="task_generator is an AGPTaskGenerator"):
        PruningScheduler(L1NormPruner(model, ASKED), None)
    with pytest.raises(CompatError, match="origin_masks"):
        LinearTaskGenerator(2, model, ASKED, {"0": {}})
