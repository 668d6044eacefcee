"""What all scripts here train: a small net on real digits, as the examples of the time did with MNIST."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
_digits = load_digits()
_x = torch.tensor(_digits.images, dtype=torch.float32).unsqueeze(1) / 16
_y = torch.tensor(_digits.target)
train_loader = [(_x[at : at + 64], _y[at : at + 64]) for at in range(0, 1280, 64)]
test_loader = [(_x[1280:], _y[1280:])]


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 32, 3)
        self.bn2 = nn.BatchNorm2d(32)
        self.relu2 = nn.ReLU()
        self.fc1 = nn.Linear(4 * 4 * 32, 32)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.fc2(self.relu3(self.fc1(x.flatten(1))))


def trainer(model, optimizer, criterion, epoch=0):
    model.train()
    for data, target in train_loader:
        optimizer.zero_grad()
        criterion(model(data), target).backward()
        optimizer.step()


def evaluator(model):
    model.eval()
    with torch.no_grad():
        return sum(float((model(x).argmax(1) == y).float().mean()) for x, y in test_loader) / len(test_loader)


@cache
def _trained():
    torch.manual_seed(0)
    model = LeNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(5):
        trainer(model, optimizer, F.cross_entropy, epoch)
    return model


def trained():
    return copy.deepcopy(_trained())


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())
