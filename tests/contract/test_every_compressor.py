"""What a training loop and a checkpoint may ask of every pruner and of every quantizer."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

import torchpare.pruning
import torchpare.quantization
from tests.pruning.training import Small, batches, train
from tests.search.nets import Chain, likelihood
from tests.search.strategies import STRATEGIES
from tests.support.attention import tokens
from torchpare.attach import Compressor
from torchpare.attach.loading import take_masks_from_states
from torchpare.errors import ConfigError
from torchpare.pruning import (
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
    ADMMPruner,
    AGPPruner,
    FPGMPruner,
    GradualPruner,
    HessianFilterPruner,
    L1FilterPruner,
    L2FilterPruner,
    LevelPruner,
    LinearPruner,
    LotteryTicketPruner,
    MovementPruner,
    RandomFilterPruner,
    SlimPruner,
    TaylorFOActivationFilterPruner,
    TaylorFOWeightFilterPruner,
    TransformerHeadPruner,
)
from torchpare.quantization import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    PACTQuantizer,
    QATQuantizer,
)

X = torch.ones(2, 1, 6, 6)
CONVS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def pruner(kind: type[Compressor], **options: Any) -> Callable[[Any], Compressor]:
    return lambda model: kind(model, CONVS, **options)


def quantizer(kind: type[Compressor], *types: str, bits: int = 8, start: int = 0) -> Callable[[Any], Compressor]:
    entry = {"quant_types": list(types), "quant_bits": bits, "op_types": ["Conv2d"], "quant_start_step": start}
    return lambda model: kind(model, [entry])


ON_SMALL = {
    LevelPruner: pruner(LevelPruner),
    L1FilterPruner: pruner(L1FilterPruner, dummy_input=X),
    L2FilterPruner: pruner(L2FilterPruner),
    FPGMPruner: pruner(FPGMPruner),
    RandomFilterPruner: pruner(RandomFilterPruner),
    TaylorFOWeightFilterPruner: pruner(TaylorFOWeightFilterPruner, sparsifying_training_batches=6),
    TaylorFOActivationFilterPruner: pruner(TaylorFOActivationFilterPruner, sparsifying_training_batches=6),
    ActivationAPoZRankFilterPruner: pruner(ActivationAPoZRankFilterPruner, sparsifying_training_batches=6),
    ActivationMeanRankFilterPruner: pruner(ActivationMeanRankFilterPruner, sparsifying_training_batches=6),
    HessianFilterPruner: pruner(HessianFilterPruner, sparsifying_training_batches=6),
    AGPPruner: pruner(AGPPruner, num_iterations=3, pruning_algorithm="hessian", dummy_input=X),
    LinearPruner: pruner(LinearPruner, num_iterations=3, pruning_algorithm="mean_activation"),
    MovementPruner: pruner(MovementPruner, warm_up_step=2, cool_down_beginning_step=8),
    ADMMPruner: pruner(ADMMPruner, trainer=train, num_iterations=1, epochs_per_iteration=1),
    SlimPruner: lambda model: SlimPruner(model, [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]),
    LotteryTicketPruner: lambda model: LotteryTicketPruner(
        model, [{**CONVS[0], "prune_iterations": 2}], lr_scheduler=None, pruning_algorithm="taylorfo"
    ),
    NaiveQuantizer: quantizer(NaiveQuantizer, "weight"),
    QATQuantizer: quantizer(QATQuantizer, "weight", "output", start=5),
    DoReFaQuantizer: quantizer(DoReFaQuantizer, "weight", bits=2),
    BNNQuantizer: quantizer(BNNQuantizer, "weight", bits=1),
    LsqQuantizer: quantizer(LsqQuantizer, "weight", "output", start=5),
    LsqPlusQuantizer: quantizer(LsqPlusQuantizer, "weight", "output"),
    PACTQuantizer: quantizer(PACTQuantizer, "output", start=5),
    ObserverQuantizer: lambda model: ObserverQuantizer(
        model, [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["Conv2d"]}]
    ),
}
every_compressor = pytest.mark.parametrize("kind", ON_SMALL, ids=lambda kind: kind.__name__)


def made(kind, seed=0):
    torch.manual_seed(seed)
    model = Small()
    return model, ON_SMALL[kind](model)


def learn(model, compressor, optimizer, epoch):
    compressor.update_epoch(epoch)
    model.train()
    for x, y in batches(epoch):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        if isinstance(compressor, (HessianFilterPruner, AGPPruner)):
            compressor.observe(loss)
        loss.backward()
        optimizer.step()
        compressor.step()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def test_these_are_all_there_are():
    public = {
        own
        for room in (torchpare.pruning, torchpare.quantization)
        for own in (getattr(room, name) for name in room.__all__)
        if inspect.isclass(own) and issubclass(own, Compressor) and not inspect.isabstract(own)
    }
    searches = {own for own in public if own.__module__.startswith("torchpare.search")}
    bases = {GradualPruner}
    assert public - searches - bases == {*ON_SMALL, TransformerHeadPruner}
    assert len(searches) == len(STRATEGIES)


@every_compressor
def test_told_of_epochs_and_steps_before_compress_it_changes_nothing(kind):
    model, compressor = made(kind)
    before = snapshot(model)
    compressor.update_epoch(0)
    compressor.step()
    compressor.update_epoch(3)
    assert same(model.state_dict(), before)


@every_compressor
def test_step_said_twice_or_not_at_all_is_step_said_once(kind):
    """Where an optimizer is followed, its own steps count, and no others."""
    ends = []
    for times in range(3):
        model, compressor = made(kind)
        compressor.compress()
        optimizer = sgd(model)
        compressor.follow(optimizer)
        for epoch in range(3):
            compressor.update_epoch(epoch)
            model.train()
            for x, y in batches(epoch):
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(x), y)
                if kind in (HessianFilterPruner, AGPPruner):
                    compressor.observe(loss)
                loss.backward()
                optimizer.step()
                for _ in range(times):
                    compressor.step()
        ends.append(model.state_dict())
    assert same(ends[1], ends[0])
    assert same(ends[2], ends[0])


@every_compressor
@pytest.mark.parametrize("follows", [True, False])
def test_with_its_state_and_the_models_a_new_one_goes_on_as_if_it_were_the_old_one(kind, follows):
    def begun(seed):
        model, compressor = made(kind, seed)
        compressor.compress()
        optimizer = sgd(model)
        if follows:
            compressor.follow(optimizer)
        return model, compressor, optimizer

    model, compressor, optimizer = begun(0)
    learn(model, compressor, optimizer, 0)
    saved = through_a_file([own.state_dict() for own in (model, compressor, optimizer)])
    for epoch in (1, 2):
        learn(model, compressor, optimizer, epoch)

    other, fresh, optimizer = begun(1)
    handle = take_masks_from_states(other)
    for own, state in zip((other, fresh, optimizer), saved, strict=True):
        own.load_state_dict(state)
    handle.remove()
    for epoch in (1, 2):
        learn(other, fresh, optimizer, epoch)
    assert same(other.state_dict(), model.state_dict())


@every_compressor
def test_a_state_that_is_not_its_own_is_an_error_that_changes_nothing(kind):
    _, compressor = made(kind)
    with pytest.raises(ConfigError, match=r"call compress\(\) before"):
        compressor.load_state_dict(compressor.state_dict())
    compressor.compress()
    state = compressor.state_dict()
    model = compressor.bound_model
    before = snapshot(model)
    for wrong, why in (
        ({}, "not what state_dict"),
        ({**state, "algorithm": "OddPruner"}, "the state of OddPruner"),
        ({**state, "layers": ["a", "c"]}, "other layers"),
    ):
        with pytest.raises(ConfigError, match=why):
            compressor.load_state_dict(wrong)
    if compressor.progress():
        with pytest.raises(ConfigError, match="not what state_dict"):
            compressor.load_state_dict({**state, "progress": {}})
    assert same(model.state_dict(), before)
    assert compressor.state_dict().keys() == state.keys()


def test_searches_and_heads_are_harmless_too(tmp_path):
    model, x = tokens()
    heads = TransformerHeadPruner(model, [{"sparsity": 0.5, "structures": ["heads"]}], dummy_input=x)
    everybody = [heads, *(make(Chain(), likelihood, tmp_path) for make in STRATEGIES.values())]
    for own in everybody:
        before = snapshot(own.bound_model)
        optimizer = sgd(own.bound_model)
        own.update_epoch(0)
        own.step()
        own.follow(optimizer)
        assert same(own.bound_model.state_dict(), before)
    heads.compress()
    before = snapshot(model)
    heads.update_epoch(1)
    heads.step()
    heads.follow(sgd(model))
    heads.load_state_dict(through_a_file(heads.state_dict()))
    assert same(model.state_dict(), before)
