"""A tiny net and its training, as scripts of NNI 2.5 have them: trainers take no epoch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

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


def score(model):
    model.eval()
    with torch.no_grad():
        return float(model(X).std())


def by_trainer(model):
    return {"trainer": train, "traced_optimizer": sgd(model), "criterion": F.cross_entropy}


def rounds(kind, total, **named):
    """The filters that are gone when each round is fine-tuned."""
    seen = []
    pruner = kind(net(), ASKED, "l1", total, finetuner=lambda model: seen.append(pruned(model)), **named)
    model, masks = pruner.compress()
    return seen, pruner, model, masks
