"""Searches, schedulers and trainers of NNI 2.5 to 2.10: what they do to the model, and what they refuse."""

from __future__ import annotations

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

from tests.support.rounds import ASKED, X, by_trainer, net, pruned, rounds, score, sgd, train
from torchpare.errors import CompatError, ConfigError


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


ANYWHERE = [{"op_types": ["Conv2d"], "total_sparsity": 0.4}]


def judged(model):
    return TorchEvaluator(train, sgd(model), dummy_input=X, evaluating_func=score)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((X, score, "l2"), {}),
        ((X, score), {"pruning_algorithm": "l2"}),
        ((), {"dummy_input": X, "evaluator": score, "pruning_algorithm": "l2"}),
        ((judged, "l2"), {}),
        ((), {"evaluator": judged, "pruning_algorithm": "l2"}),
        ((X, judged, "l2"), {}),
    ],
)
def test_amc_takes_an_example_and_a_function_or_an_evaluator_that_has_one(arguments, named, tmp_path):
    model = net()
    arguments = [judged(model) if one is judged else one for one in arguments]
    named = {key: judged(model) if one is judged else one for key, one in named.items()}
    pruner = AMCPruner(3, model, ANYWHERE, *arguments, log_dir=str(tmp_path), **named)
    assert pruner.dummy_input is X
    assert pruner.base_algo == "l2"
    assert pruner.evaluator(model) == pytest.approx(score(model))


def test_amc_s_arguments_of_2_9_stand_in_their_order(tmp_path):
    model = net()
    ddpg = {"hidden1": 16, "hidden2": 16, "window_length": 1, "max_episode_length": 1e9, "epsilon": 50000}
    pruner = AMCPruner(3, model, ANYWHERE, judged(model), "l1", str(tmp_path), False, ddpg, {}, "params")
    assert pruner.objective.metric == "params"
    assert pruner.ddpg["hidden"] == (16, 16)
    with pytest.raises(ConfigError, match="AMCPruner: missing a required argument: 'evaluator'"):
        AMCPruner(3, model, ANYWHERE, X)


def test_searches_of_2_9_have_no_finetuner_in_their_order(tmp_path):
    model = net()
    pruner = SimulatedAnnealingPruner(
        model, ANYWHERE, judged(model), 100, 95, 0.9, 0.35, "l1", {}, str(tmp_path), False, True
    )
    assert pruner.speedup
    assert pruner.fine_tuner is None
    with pytest.raises(CompatError, match="AutoCompressPruner trains candidates"):
        AutoCompressPruner(model, ANYWHERE, 1, {"iterations": 1}, {}, str(tmp_path), False, judged(model), True)


def test_generators_may_skip_the_round_that_prunes_nothing():
    model = net()
    seen = []
    generator = LinearTaskGenerator(2, model, ASKED, skip_first_iteration=True)
    PruningScheduler(L1NormPruner(model, ASKED), generator, finetuner=lambda m: seen.append(pruned(m))).compress()
    assert seen == [6, 12]
