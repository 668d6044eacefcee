"""Accelerate's loop: gradients accumulated, clipped and in bfloat16 as it does it, saved and loaded as it does it."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.nn import functional

from tests.integrations.runs import ALL, EPOCHS, by_hand, made, same, sgd
from tests.pruning.training import batches
from torchpare.integrations import compression

every_case = pytest.mark.parametrize("case", ALL)


@pytest.fixture(autouse=True)
def _an_accelerator_of_its_own():
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def every_epoch(_):
    return batches(0)


class Run:
    """A user's script with Accelerate."""

    def __init__(self, case, seed=0, **options):
        self.accelerator = Accelerator(cpu=True, **options)
        self.net, self.compressors = made(case, seed)
        data = torch.utils.data.DataLoader(batches(0), batch_size=None)
        self.model, self.optimizer, self.data = self.accelerator.prepare(self.net, sgd(self.net), data)

    def learn(self, clip=None):
        self.model.train()
        for x, y in self.data:
            with self.accelerator.accumulate(self.model):
                with self.accelerator.autocast():
                    loss = functional.cross_entropy(self.model(x), y)
                self.accelerator.backward(loss)
                if clip is not None and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
                self.optimizer.step()
                self.optimizer.zero_grad()

    def train(self, **how):
        with compression(*self.compressors, optimizer=self.optimizer) as control:
            for _ in control.epochs(EPOCHS):
                self.learn(**how)
        return self.net


@every_case
def test_the_model_is_that_of_a_loop_with_every_call_in_it(case):
    assert same(Run(case).train(), by_hand(case, data=every_epoch))


@every_case
def test_gradients_accumulated_clipped_and_in_bfloat16(case):
    run = Run(case, gradient_accumulation_steps=2, mixed_precision="bf16")
    assert same(run.train(clip=0.1), by_hand(case, accumulate=2, clip=0.1, bf16=True, data=every_epoch))


@every_case
def test_its_own_checkpoints_hold_all_of_it(case, tmp_path):
    run = Run(case)
    with compression(*run.compressors, optimizer=run.optimizer) as control:
        run.accelerator.register_for_checkpointing(control)
        for epoch in control.epochs(EPOCHS):
            run.learn()
            if epoch == 1:
                run.accelerator.save_state(str(tmp_path))
                break
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    run, trained = Run(case, seed=1), []
    with compression(*run.compressors, optimizer=run.optimizer) as control:
        run.accelerator.register_for_checkpointing(control)
        run.accelerator.load_state(str(tmp_path))
        for epoch in control.epochs(EPOCHS):
            trained.append(epoch)
            run.learn()
    assert trained == [2, 3]
    assert same(run.net, by_hand(case, data=every_epoch))
