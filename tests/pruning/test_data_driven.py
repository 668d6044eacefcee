"""Pruners that watch training: what they score is what was seen, when they mask is when enough was seen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.pruning.training import Small, batches, train
from torchpare import ModelSpeedup
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError, MaskError
from torchpare.pruning import (
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
    TaylorFOActivationFilterPruner,
    TaylorFOWeightFilterPruner,
)

HALF = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
WATCHERS = [
    TaylorFOWeightFilterPruner,
    TaylorFOActivationFilterPruner,
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
]
every_watcher = pytest.mark.parametrize("kind", WATCHERS, ids=lambda kind: kind.__name__)


def model_and_optimizer(lr=0.05, seed=0):
    torch.manual_seed(seed)
    model = Small()
    with torch.no_grad():  # how often a filter fires says nothing about how strongly
        model.b.weight.mul_(3.0 ** torch.arange(8.0).view(8, 1, 1, 1))
    return model, torch.optim.SGD(model.parameters(), lr=lr)


def hooks(model):
    return sum(len(m._forward_hooks) for m in model.modules())


def lowest(scores, drop=4):
    return set(sorted(range(len(scores)), key=lambda at: float(scores[at]))[:drop])


def gone(model, layer):
    return set((~masks_of(model)[layer]["weight"].flatten()).nonzero().flatten().tolist())


def test_apoz_and_mean_are_those_of_all_batches_seen_by_hand():
    model, optimizer = model_and_optimizer(lr=0.0)
    outputs = []
    twin = copy.deepcopy(model)
    twin.b.register_forward_hook(lambda m, i, o: outputs.append(o.detach().relu()))
    for x, _ in batches()[:3]:
        twin.train()(x)
    seen = torch.cat(outputs).double()
    fires = (seen != 0).double().mean((0, 2, 3))
    mean = seen.mean((0, 2, 3))
    assert lowest(fires) != lowest(mean)  # or the two could not be told apart
    for kind, expected in ((ActivationAPoZRankFilterPruner, fires), (ActivationMeanRankFilterPruner, mean)):
        model, optimizer = model_and_optimizer(lr=0.0)
        kind(model, HALF, optimizer, train, None, "relu", 3).compress()
        assert gone(model, "b") == lowest(expected)


def test_taylor_adds_up_squared_products_of_the_weights_and_gradients_before_each_step():
    model, optimizer = model_and_optimizer(lr=0.3)
    expected = torch.zeros(8, dtype=torch.float64)
    twin = copy.deepcopy(model).train()
    twins = torch.optim.SGD(twin.parameters(), lr=0.3)
    for x, y in batches():
        twins.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        expected += (twin.b.weight.double() * twin.b.weight.grad.double()).square().sum((1, 2, 3)).detach()
        twins.step()
    TaylorFOWeightFilterPruner(model, HALF, optimizer, train, None, 4).compress()
    assert gone(model, "b") == lowest(expected)


def test_taylor_of_activations_is_the_mean_over_examples_of_the_absolute_mean_over_positions():
    model, optimizer = model_and_optimizer(lr=0.3)
    expected, examples = torch.zeros(8, dtype=torch.float64), 0
    twin = copy.deepcopy(model).train()
    twins = torch.optim.SGD(twin.parameters(), lr=0.3)
    seen = []
    twin.b.register_forward_hook(lambda m, i, o: (o.retain_grad(), seen.append(o))[0])
    for x, y in batches():
        twins.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        output = seen.pop()
        expected += (output.double() * output.grad.double()).mean((2, 3)).abs().sum(0).detach()
        examples += len(x)
        twins.step()
    pruner = TaylorFOActivationFilterPruner(model, HALF, optimizer, train, None, 4)
    scores = []
    judged = pruner.judged
    pruner.judged = lambda sums: scores.append(judged(sums)) or scores[-1]
    pruner.compress()
    mean = expected / examples
    torch.testing.assert_close(scores[-1], mean / mean.norm(), rtol=1e-5, atol=1e-9)
    assert gone(model, "b") == lowest(expected)


@every_watcher
def test_with_a_trainer_no_more_minibatches_are_looked_at_than_were_asked_for(kind):
    def scores(trainer):
        model, optimizer = model_and_optimizer()
        pruner, seen = kind(model, HALF, optimizer, trainer, sparsifying_training_batches=2), []
        judged = pruner.judged
        pruner.judged = lambda sums: seen.append(judged(sums)) or seen[-1]
        pruner.compress()
        if trainer is None:
            train(model, optimizer)  # the masks come after two of its four minibatches
        return torch.stack(seen)

    assert torch.equal(scores(train), scores(None))


@every_watcher
def test_without_a_trainer_the_masks_appear_after_as_many_batches_as_were_asked_for(kind):
    model, optimizer = model_and_optimizer()
    pruner = kind(model, HALF, optimizer, statistics_batch_num=3)
    assert pruner.compress() is model
    assert not is_attached(model)
    attached = []
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        pruner.step()  # harmless beside an optimizer
        attached.append(is_attached(model))
    assert attached == [False, False, True, True]
    assert hooks(model) == 0


@every_watcher
def test_without_an_optimizer_steps_are_told(kind):
    model, optimizer = model_and_optimizer()
    pruner = kind(model, HALF, sparsifying_training_batches=2)
    pruner.compress()
    attached = []
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        pruner.step()
        attached.append(is_attached(model))
    assert attached == [False, True, True, True]


@every_watcher
def test_both_ways_of_training_choose_the_same_filters(kind):
    one, optimizer = model_and_optimizer(lr=0.0)
    kind(one, HALF, optimizer, train, sparsifying_training_batches=4).compress()
    other, optimizer = model_and_optimizer(lr=0.0)
    kind(other, HALF, optimizer, sparsifying_training_batches=4).compress()
    train(other, optimizer)
    assert gone(one, "a") == gone(other, "a")
    assert gone(one, "b") == gone(other, "b")


@every_watcher
def test_an_epoch_that_is_too_short_has_to_do(kind):
    model, optimizer = model_and_optimizer()
    kind(model, HALF, optimizer, train, sparsifying_training_batches=99).compress()
    assert len(gone(model, "a")) == 4


@every_watcher
def test_what_no_batch_reached_is_an_error_that_names_it(kind):
    model, optimizer = model_and_optimizer()
    model.spare = nn.Conv2d(1, 4, 1)
    with pytest.raises(MaskError, match=r"no minibatch has reached spare.*or exclude it"):
        kind(model, HALF, optimizer, train).compress()
    assert not is_attached(model)
    assert hooks(model) == 0


@every_watcher
def test_a_trainer_that_fails_leaves_no_hooks(kind):
    model, optimizer = model_and_optimizer()

    def fail(*_, **__):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        kind(model, HALF, optimizer, fail).compress()
    assert hooks(model) == 0
    train(model, optimizer)
    assert not is_attached(model)


@every_watcher
def test_the_modes_of_all_modules_are_put_back(kind):
    model, optimizer = model_and_optimizer()
    model.eval()
    model.norm_b.train()
    kind(model, HALF, optimizer, train).compress()
    assert [module.training for module in model.modules()].count(True) == 1


@every_watcher
def test_export_says_what_it_waits_for(kind, tmp_path):
    model, optimizer = model_and_optimizer()
    pruner = kind(model, HALF, optimizer, sparsifying_training_batches=5)
    pruner.compress()
    train(model, optimizer)
    with pytest.raises(MaskError, match="4 of the 5 minibatches"):
        pruner.export_model(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (TaylorFOWeightFilterPruner, (2, True, torch.ones(1, 1, 6, 6))),
        (TaylorFOActivationFilterPruner, (2, True, torch.ones(1, 1, 6, 6))),
        (ActivationAPoZRankFilterPruner, ("relu6", 2, True, torch.ones(1, 1, 6, 6))),
        (ActivationMeanRankFilterPruner, ("relu", 2, True, torch.ones(1, 1, 6, 6))),
    ],
)
def test_scripts_without_a_trainer_may_give_their_arguments_earlier(kind, arguments):
    model, optimizer = model_and_optimizer()
    pruner = kind(model, HALF, optimizer, *arguments)
    assert (pruner.batches, pruner.dependency_aware, pruner.training) == (2, True, None)
    assert pruner.dummy_input is arguments[-1]
    assert kind(model, HALF, optimizer, *arguments[:-2]).batches == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainer": 3.5}, "a function that trains"),
        ({"trainer": train}, "needs the optimizer"),
        ({"sparsifying_training_batches": 0}, "whole number above 0"),
    ],
)
def test_arguments_that_cannot_be_used_say_so(options, message):
    with pytest.raises(ConfigError, match=message):
        TaylorFOWeightFilterPruner(Small(), HALF, **options)
    with pytest.raises(ConfigError, match="activation is 'tanh'"):
        ActivationAPoZRankFilterPruner(Small(), HALF, activation="tanh")


@every_watcher
def test_prune_train_shrink(kind):
    model, optimizer = model_and_optimizer()
    x = torch.ones(2, 1, 6, 6)
    kind(model, HALF, optimizer, train, dummy_input=x).compress()
    train(model, optimizer, epoch=1)
    report = ModelSpeedup(model, x).speedup_model()
    assert report.exact
    assert model.b.weight.shape == (4, 4, 3, 3)
    assert report.output_change > 0


def test_later_versions_give_the_trainer_first_and_the_batches_before_the_activation():
    model, optimizer = model_and_optimizer(lr=0.0)
    loss = nn.functional.cross_entropy
    pruner = ActivationAPoZRankFilterPruner(
        model, HALF, train, optimizer, loss, 3, "relu6", "dependency_aware", torch.ones(1, 1, 6, 6)
    )
    assert (pruner.batches, pruner.activation, pruner.dependency_aware) == (3, "relu6", True)
    assert pruner.training.optimizer is optimizer
    assert pruner.training.trainer is train
    pruner = TaylorFOWeightFilterPruner(model, HALF, train, optimizer, loss, training_batches=2)
    assert (pruner.batches, pruner.training.criterion) == (2, loss)
    pruner.compress()
    assert is_attached(model)


def test_the_lowest_scores_of_all_layers_go_together_where_the_mode_says_so():
    model, optimizer = model_and_optimizer(lr=0.0)
    scores = {}
    quarter = [{"sparsity": 0.25, "op_types": ["Conv2d"]}]
    pruner = TaylorFOWeightFilterPruner(model, quarter, optimizer, train, None, 4, mode="global")
    score_of = pruner.score_of
    pruner.score_of = lambda target, weight: scores.setdefault(target.name, score_of(target, weight))
    pruner.compress()
    together = sorted((float(s), layer, at) for layer, own in scores.items() for at, s in enumerate(own))
    expected = {(layer, at) for _, layer, at in together[:4]}
    assert {(layer, at) for layer in ("a", "b") for at in gone(model, layer)} == expected
    assert len(gone(model, "a")) != 2


def test_it_waits_for_no_less_than_nothing_where_several_batches_make_a_step():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = ActivationAPoZRankFilterPruner(
        model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}], optimizer, sparsifying_training_batches=2
    )
    pruner.compress()
    for _ in range(4):  # whose gradients are accumulated
        model(torch.ones(2, 1, 6, 6)).sum().backward()
    assert pruner.waiting == "it has seen 2 of the 2 minibatches that it asks for"
