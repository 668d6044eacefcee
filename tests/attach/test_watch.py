"""Who is called around an optimizer's steps, and when; what is seen of gradients just before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.attach.steps import Steps, before_step
from torchpare.attach.watch import GradientWatch


def layer_and_optimizer(kind=torch.optim.SGD, **options):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    return layer, kind(layer.parameters(), lr=0.1, **options)


def test_steps_may_be_removed_from_within_a_call_though_others_hang_behind_them():
    layer, optimizer = layer_and_optimizer()
    calls = []

    def once():
        calls.append("once")
        steps.remove()

    steps = Steps(optimizer, before=lambda: calls.append("before"), after=once)
    optimizer.register_step_post_hook(lambda *_: calls.append("behind"))
    for _ in range(2):
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert calls == ["before", "once", "behind", "behind"]


def test_removed_from_without_nothing_of_them_stays():
    _, optimizer = layer_and_optimizer()
    steps = Steps(optimizer, before=list, after=list)
    assert optimizer._optimizer_step_pre_hooks
    steps.remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("by_keyword", [True, False])
def test_gradients_that_a_closure_computes_are_seen_and_the_weights_that_they_belong_to(by_keyword):
    layer, optimizer = layer_and_optimizer()
    weight, seen = layer.weight.detach().clone(), []

    def look():
        seen.append((layer.weight.grad.clone(), layer.weight.detach().clone()))

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    before_step(optimizer, look)
    loss = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
    assert len(seen) == 1
    assert torch.equal(seen[0][1], weight)
    assert torch.equal(layer.weight, weight - 0.1 * seen[0][0])
    assert loss > 0


def test_of_a_closure_that_is_run_several_times_the_first_run_counts():
    layer, optimizer = layer_and_optimizer(torch.optim.LBFGS, max_iter=4)
    runs = []

    def closure():
        runs.append(1)
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    watch = GradientWatch({"layer": layer}, lambda _, weight, grad: weight * grad, optimizer)
    optimizer.step(closure)
    assert len(runs) > 1
    assert watch.batches == 1
    fresh, _ = layer_and_optimizer()
    fresh(torch.ones(1, 3)).square().sum().backward()
    assert torch.equal(watch.sums["layer"], fresh.weight * fresh.weight.grad)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscaled_before", [False, True])
def test_gradients_are_unscaled_before_anybody_looks_and_steps_that_are_none_are_not_told(fused, unscaled_before):
    layer, optimizer = layer_and_optimizer(torch.optim.AdamW, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    seen, after = [], []
    Steps(optimizer, before=lambda: seen.append(layer.weight.grad.clone()), after=lambda: after.append(1))
    for spoilt in (False, True, False):
        before = layer.weight.detach().clone()
        loss = layer(torch.ones(1, 3)).sum()
        scaler.scale(loss * torch.inf if spoilt else loss).backward()
        if unscaled_before:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(layer.weight, before) is spoilt
    assert len(seen) == len(after) == 2
    assert all(torch.equal(grad, torch.ones(2, 3)) for grad in seen)


def test_a_fused_step_under_a_scaler_is_the_same_whether_anybody_looks_or_not():
    trained = []
    for watched in (False, True):
        layer, optimizer = layer_and_optimizer(torch.optim.AdamW, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        if watched:
            before_step(optimizer, list)
        for _ in range(3):
            scaler.scale(layer(torch.ones(1, 3)).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        trained.append(layer.weight.detach().clone())
    assert torch.equal(*trained)
