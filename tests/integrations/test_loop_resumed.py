"""Loops of one's own that are interrupted: new objects go on where the old ones were."""

from __future__ import annotations

import pytest
import torch

from tests.integrations.runs import (
    CASES,
    EPOCHS,
    by_hand,
    learn,
    made,
    run,
    same,
    sgd,
    through_a_file,
)
from tests.pruning.training import Small
from torchpare.attach import masks_of
from torchpare.integrations import compression

every_case = pytest.mark.parametrize("case", CASES)


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
@pytest.mark.parametrize("last", [0, 1])
def test_the_same_objects_can_go_back_to_an_earlier_state(case, last):
    model, compressors = made(case)
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            run(model, optimizer, epoch)
            if epoch == last:
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
