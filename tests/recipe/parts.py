"""What the recipes of these tests name: a small net, digits that somebody drew, and a metric."""

from __future__ import annotations

from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two convolutions with norms, and a classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.pool, self.flat, self.head = nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.norm1(self.conv1(x)))
        x = self.relu2(self.norm2(self.conv2(x)))
        return self.head(self.flat(self.pool(x)))


@lru_cache(1)
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)


def net(width: int = 8) -> Net:
    return Net(width)


def train(count: int = 256, shuffle: bool = True) -> DataLoader[tuple[Tensor, ...]]:
    pictures, labels = digits()
    return DataLoader(TensorDataset(pictures[:count], labels[:count]), batch_size=32, shuffle=shuffle)


def calibration() -> list[Tensor]:
    return list(digits()[0][:64].split(32))


def accuracy(model: nn.Module) -> float:
    pictures, labels = digits()
    return float((model(pictures[1500:]).argmax(1) == labels[1500:]).double().mean())


def several(model: nn.Module) -> dict[str, float]:
    return {"accuracy": accuracy(model), "loss": 1.0 - accuracy(model)}


def broken() -> nn.Module:
    raise OSError("no weights here")


def reader() -> object:
    return iter([(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))])


class Tokens(nn.Module):
    """A sequence model that is called by keyword and gives a dict with its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.block(self.embed(input_ids)).mean(1))
        said = {"logits": logits}
        return said if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), **said}


def tokens() -> Tokens:
    return Tokens()


def sentences() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 12, (64, 6), generator=generator)
    return [{"input_ids": part, "labels": (part[:, 0] % 3)} for part in ids.split(16)]


def right_sentences(model: nn.Module) -> float:
    batch = sentences()[0]
    return float((model(input_ids=batch["input_ids"])["logits"].argmax(1) == batch["labels"]).double().mean())
