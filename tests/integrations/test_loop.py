"""Loops of one's own: nothing of torchpare in their body, and the same model as if every call had been written."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.integrations.runs import CASES, CONVS, EIGHT_BITS, EPOCHS, LATE, X, by_hand, made, same, sgd, through_a_file
from tests.pruning.training import Small, batches
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError
from torchpare.integrations import compression
from torchpare.pruning import AGPPruner, L1FilterPruner, LevelPruner, TaylorFOWeightFilterPruner
from torchpare.quantization import QATQuantizer

every_case = pytest.mark.parametrize("case", CASES)


def learn(model, optimizer, epoch, *, accumulate=1, clip=None, bf16=False, scaler=None, spoilt=(), first=0):
    """One epoch; some batches may have gradients that no number can hold."""
    model.train()
    for at, (x, y) in list(enumerate(batches(epoch)))[first:]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(model(x), y)
        loss = loss / accumulate
        (loss if scaler is None else scaler.scale(loss)).backward()
        if (at + 1) % accumulate:
            continue
        if 4 // accumulate * epoch + at // accumulate in spoilt:
            model.head.weight.grad[0, 0] = torch.inf
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        yield


def run(model, optimizer, epoch, **how):
    for _ in learn(model, optimizer, epoch, **how):
        pass


def controlled(case, **how):
    model, compressors = made(case)
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            run(model, optimizer, epoch, **how)
    return model


# -------------------------------------------------------------------------------------------- as if written by hand


@every_case
def test_the_model_is_that_of_a_loop_with_every_call_in_it(case):
    assert same(controlled(case), by_hand(case))


@every_case
def test_only_steps_of_the_optimizer_count_where_gradients_are_accumulated(case):
    assert same(controlled(case, accumulate=2), by_hand(case, accumulate=2))


@every_case
def test_with_clipped_gradients_and_in_bfloat16(case):
    assert same(controlled(case, clip=0.1, bf16=True), by_hand(case, clip=0.1, bf16=True))


@pytest.mark.parametrize("case", ["Taylor", "movement", "QAT, late", "AGP and QAT, late"])
def test_steps_that_a_gradient_scaler_leaves_out_do_not_count(case):
    model, compressors = made(case)
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=4.0)
    counted = []
    optimizer.register_step_post_hook(lambda *_: counted.append(1))
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            run(model, optimizer, epoch, scaler=scaler, spoilt=(2, 7))
    assert len(counted) == 4 * EPOCHS - 2
    if case != "movement":  # whose own gradients are seen before anybody spoils them
        assert same(model, by_hand(case, skipped=(2, 7)))
    for own in compressors:
        if isinstance(own, QATQuantizer):
            assert int(model.a.output_quantizer.steps) == 4 * EPOCHS - 2


def test_gradients_that_overflow_leave_no_trace_in_scores():
    model, (pruner,) = made("movement")
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=4.0)
    with compression(pruner, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            for at, (x, y) in enumerate(batches(epoch)):
                loss = functional.cross_entropy(model(x), y)
                scaler.scale(loss * torch.inf if at == 1 else loss).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    assert pruner.now_step == 3 * EPOCHS
    assert all(scores.isfinite().all() for scores in pruner.weight_scores.values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert int((~masks_of(model)["b"]["weight"]).sum()) == 288


def test_masks_and_delayed_grids_come_where_the_schedule_says():
    model, compressors = made("AGP and QAT, late")
    optimizer, seen = sgd(model), []
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            for _ in learn(model, optimizer, epoch):
                gone = int((~masks_of(model)["b"]["weight"]).sum()) if is_attached(model) else 0
                seen.append((epoch, gone, model.b.output_quantizer.active))
    gone = {epoch: masked for epoch, masked, _ in seen}
    assert gone[0] == 0
    assert gone[0] < gone[1] < gone[2] < gone[3] == 288
    assert [active for _, _, active in seen] == [False] * 5 + [True] * 11


# ------------------------------------------------------------------------------------------------------ interrupted


@every_case
@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_run_that_is_resumed_with_new_objects_ends_with_the_same_model(case, last):
    model, compressors = made(case)
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            run(model, optimizer, epoch)
            if epoch == last:
                saved = through_a_file([model.state_dict(), optimizer.state_dict(), control.state_dict()])
                break

    model, compressors = made(case, seed=1)
    optimizer, trained = sgd(model), []
    with compression(*compressors, optimizer=optimizer) as control:
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        control.load_state_dict(saved[2])
        for epoch in control.epochs(EPOCHS):
            trained.append(epoch)
            run(model, optimizer, epoch)
    assert trained == list(range(last + 1, EPOCHS))
    assert same(model, by_hand(case))


@every_case
@pytest.mark.parametrize("learnt", [1, 3])
def test_so_does_one_that_was_saved_in_the_middle_of_an_epoch(case, learnt):
    model, compressors = made(case)
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            for at, _ in enumerate(learn(model, optimizer, epoch), start=1):
                if (epoch, at) == (1, learnt):
                    saved = through_a_file([model.state_dict(), optimizer.state_dict(), control.state_dict()])

    model, compressors = made(case, seed=1)
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer) as control:
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        control.load_state_dict(saved[2])
        for epoch in control.epochs(EPOCHS, start=control.epoch):
            run(model, optimizer, epoch, first=learnt if epoch == 1 else 0)
    assert same(model, by_hand(case))


@every_case
def test_the_same_objects_can_go_back_to_an_earlier_state(case):
    model, compressors = made(case)
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            run(model, optimizer, epoch)
            if epoch == 1:
                saved = through_a_file([model.state_dict(), optimizer.state_dict(), control.state_dict()])
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        control.load_state_dict(saved[2])
        for epoch in control.epochs(EPOCHS):
            run(model, optimizer, epoch)
    assert same(model, by_hand(case))


def test_nothing_stays_behind_on_a_model_or_an_optimizer():
    model, compressors = made("AGP")
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer):
        assert optimizer._optimizer_step_post_hooks
        assert model._load_state_dict_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not model._load_state_dict_pre_hooks


def test_a_dense_state_leaves_the_masks_alone():
    model, compressors = made("one shot")
    dense = Small().state_dict()
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer):
        before = masks_of(model)
        model.load_state_dict(dense)
    assert torch.equal(masks_of(model)["b"]["weight"], before["b"]["weight"])


# --------------------------------------------------------------------------------------------------- averaged weights


@pytest.mark.parametrize("case", ["AGP", "AGP of filters", "movement", "QAT, late", "LSQ+, late", "AGP and QAT, late"])
def test_averaged_weights_have_the_masks_and_grids_of_the_model_and_the_average_of_its_weights(case):
    def ema(model):
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    model, compressors = made(case)
    optimizer, averaged = sgd(model), ema(model)
    expected = None
    with compression(*compressors, optimizer=optimizer, averaged=averaged) as control:
        for epoch in control.epochs(EPOCHS):
            for _ in learn(model, optimizer, epoch):
                averaged.update_parameters(model)
                now = {name: own.detach().clone() for name, own in model.named_parameters()}
                if expected is None:
                    expected = now
                else:
                    expected = {name: 0.9 * old + 0.1 * now[name] for name, old in expected.items()}
    for name, own in averaged.module.named_parameters():
        if "quantizer" not in name:
            torch.testing.assert_close(own, expected[name])
    twin = averaged.module
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(twin.named_buffers())[name], buffer), name
    for path, layer in model.named_modules():
        if hasattr(layer, "active"):
            assert layer.active
            assert twin.get_submodule(path).active
    twin.eval()
    with torch.no_grad():
        for module in twin.modules():  # what the average computes with is zero where the model's masks are
            for name in getattr(module, "torchpare_masked", ()):
                weight = getattr(module, name)
                assert not weight[~getattr(module, name + "_mask").expand_as(weight)].any()
        assert twin(X).isfinite().all()


def test_learnt_steps_are_averaged_from_where_they_start_not_from_what_stood_there_before():
    model, compressors = made("LSQ+, late")
    optimizer = sgd(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    with compression(*compressors, optimizer=optimizer, averaged=averaged) as control:
        for epoch in control.epochs(EPOCHS):
            for _ in learn(model, optimizer, epoch):
                averaged.update_parameters(model)
    step, average = (net.b.output_quantizer.scale.item() for net in (model, averaged.module))
    assert step < 0.2  # before the first batch it is 1
    assert average == pytest.approx(step, rel=0.2)


def test_an_average_is_resumed_with_the_rest():
    def begin(seed):
        model, compressors = made("AGP and QAT, late", seed)
        return model, compressors, sgd(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    ends = []
    saved = None
    for seed in (0, 1):
        model, compressors, optimizer, averaged = begin(seed)
        with compression(*compressors, optimizer=optimizer, averaged=averaged) as control:
            if saved is not None:
                for own, state in zip((model, optimizer, averaged, control), saved, strict=True):
                    own.load_state_dict(state)
            for epoch in control.epochs(EPOCHS):
                for _ in learn(model, optimizer, epoch):
                    averaged.update_parameters(model)
                if epoch == 1 and saved is None:
                    saved = through_a_file([own.state_dict() for own in (model, optimizer, averaged, control)])
        ends.append(averaged)
    assert same(ends[1], ends[0])


# ------------------------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_told_of_training_is_an_error_that_says_so():
    model = Small()
    optimizer = sgd(model)
    pruner = LevelPruner(model, CONVS)
    with pytest.raises(ConfigError, match="needs a pruner or a quantizer"):
        compression(optimizer=optimizer)
    with pytest.raises(ConfigError, match=r"argument 0 is a Small; it is a pruner or a quantizer"):
        compression(model, optimizer=optimizer)
    with pytest.raises(ConfigError, match=r"argument 0 is a list; .* compression\(\*compressors\)"):
        compression([pruner], optimizer=optimizer)
    with pytest.raises(ConfigError, match=r"call compress\(\) of LevelPruner first"):
        compression(pruner, optimizer=optimizer)
    pruner.compress()
    with pytest.raises(ConfigError, match="argument 1, a LevelPruner, is given twice"):
        compression(pruner, pruner, optimizer=optimizer)
    with pytest.raises(ConfigError, match="optimizer is a Small"):
        compression(pruner, optimizer=[model])


def test_an_optimizer_of_another_model_is_an_error():
    model, compressors = made("AGP")
    with (
        pytest.raises(ConfigError, match=r"no optimizer here trains a parameter of the Small that AGPPruner"),
        compression(*compressors, optimizer=sgd(copy.deepcopy(model))),
    ):
        pass
    assert not model._load_state_dict_pre_hooks


@pytest.mark.parametrize(
    "make",
    [
        lambda model, steps: TaylorFOWeightFilterPruner(model, CONVS, steps),
        lambda model, steps: AGPPruner(model, CONVS, steps, num_iterations=4, pruning_algorithm="taylorfo"),
        lambda model, steps: QATQuantizer(model, LATE, steps),
    ],
)
def test_a_compressor_that_waits_for_another_optimizer_is_an_error(make):
    model = Small()
    compressor = make(model, sgd(model))
    compressor.compress()
    with (
        pytest.raises(ConfigError, match="was given another optimizer than the one that trains the model"),
        compression(compressor, optimizer=sgd(model)),
    ):
        pass


@pytest.mark.parametrize(
    "make",
    [
        lambda model, steps: LevelPruner(model, CONVS, steps),
        lambda model, steps: AGPPruner(model, CONVS, steps, num_iterations=4),
        lambda model, steps: QATQuantizer(model, EIGHT_BITS, steps),
    ],
)
def test_one_that_counts_no_steps_may_have_been_given_any(make):
    model = Small()
    compressor = make(model, sgd(model))
    compressor.compress()
    optimizer = sgd(model)
    with compression(compressor, optimizer=optimizer) as control:
        for epoch in control.epochs(2):
            run(model, optimizer, epoch)


def test_a_state_of_others_is_an_error():
    _, (agp,) = made("AGP")
    model, both = made("AGP and QAT, late")
    control = compression(*both, optimizer=sgd(model))
    with pytest.raises(ConfigError, match="saved with AGPPruner, and here are AGPPruner, QATQuantizer"):
        control.load_state_dict({"epoch": 1, "compressors": [agp.state_dict()]})
    with pytest.raises(ConfigError, match="this is not what"):
        control.load_state_dict({"compressors": 3})
    with pytest.raises(ConfigError, match="this is not what"):
        control.load_state_dict({"epoch": 1, "compressors": {}})


def test_averages_that_would_spoil_masks_are_an_error():
    model, compressors = made("AGP")
    optimizer = sgd(model)
    with pytest.raises(ConfigError, match=r"use_buffers=True, which would take averages of masks"):
        compression(*compressors, optimizer=optimizer, averaged=AveragedModel(model, use_buffers=True))
    with pytest.raises(ConfigError, match=r"no copy of the Small"):
        compression(*compressors, optimizer=optimizer, averaged=AveragedModel(nn.Linear(2, 2)))
    model = Small()
    pruner = L1FilterPruner(model, CONVS)
    pruner.compress()
    with pytest.raises(ConfigError, match="wait for a first batch"):
        compression(pruner, optimizer=sgd(model), averaged=AveragedModel(model))
