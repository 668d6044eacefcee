"""Loops of one's own: nothing of torchpare in their body, and the same model as if every call had been written."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from tests.integrations.runs import (
    CASES,
    CONVS,
    EIGHT_BITS,
    EPOCHS,
    LATE,
    by_hand,
    controlled,
    learn,
    made,
    run,
    same,
    sgd,
)
from tests.pruning.training import Small, batches
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError
from torchpare.integrations import compression
from torchpare.pruning import AGPPruner, LevelPruner, TaylorFOWeightFilterPruner
from torchpare.quantization import QATQuantizer

every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_the_model_is_that_of_a_loop_with_every_call_in_it(case):
    assert same(controlled(case), by_hand(case))


@every_case
def test_only_steps_of_the_optimizer_count_where_gradients_are_accumulated(case):
    assert same(controlled(case, accumulate=2), by_hand(case, accumulate=2))


@every_case
def test_with_clipped_gradients_and_in_bfloat16(case):
    assert same(controlled(case, clip=0.1, bf16=True), by_hand(case, clip=0.1, bf16=True))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("case", ["Taylor", "movement", "QAT, late", "AGP and QAT, late"])
def test_steps_that_a_gradient_scaler_leaves_out_do_not_count(case, fused):
    """Of a fused optimizer it leaves none out: it says to the step that it is none."""
    model, compressors = made(case)
    optimizer, scaler = sgd(model, fused=fused), torch.amp.GradScaler("cpu", init_scale=4.0)
    counted = []
    optimizer.register_step_post_hook(lambda *_: counted.append(1))
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            run(model, optimizer, epoch, scaler=scaler, spoilt=(2, 7))
    assert len(counted) == (4 * EPOCHS if fused else 4 * EPOCHS - 2)
    if case != "movement":  # whose own gradients are seen before anybody spoils them
        assert same(model, by_hand(case, skipped=(2, 7), fused=fused))
    else:
        assert compressors[0].now_step == 4 * EPOCHS - 2
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
    for wrong in (model, [model], None):
        with pytest.raises(ConfigError, match=r"optimizer is a (Small|NoneType); it is the torch optimizer"):
            compression(pruner, optimizer=wrong)


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
