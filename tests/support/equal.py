"""A tiny net, its training in every version's words, and states that have to be equal to the bit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from torchpare.compat.nni.evaluators import TorchEvaluator

FILTERS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"exclude": True, "op_names": ["0"]}]


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator))
            for _ in range(4)]  # fmt: skip


X = batches()[0][0]


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


def train(model, optimizer, criterion=F.cross_entropy, epoch=0):
    model.train()
    for x, y in batches():
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def score(model):
    model.eval()
    with torch.no_grad():
        return float(-sum(F.cross_entropy(model(x), y) for x, y in batches()))


def states_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def evaluator(model, optimizer=None):
    def training_func(model, optimizers, criterion, lr_schedulers=None, max_steps=None, max_epochs=None):
        done = 0
        for _ in range(max_epochs or 1):
            for x, y in batches():
                if done == max_steps:
                    return
                optimizers.zero_grad()
                criterion(model(x), y).backward()
                optimizers.step()
                done += 1

    return TorchEvaluator(training_func, sgd(model) if optimizer is None else optimizer, F.cross_entropy,
                          evaluating_func=score)  # fmt: skip
