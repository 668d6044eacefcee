"""A net, and the share of all data that a process trains it on: one process whole batches, several their parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from torchpare.attach import masks_of
from torchpare.quantization import learned_grids

__all__ = ["CONVOLUTIONS", "EVERYTHING", "WEIGHTS", "Net", "Share", "grids", "masks", "net", "sgd", "train"]

CONVOLUTIONS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
WEIGHTS = [{"sparsity": 0.6, "op_types": ["default"]}]
EVERYTHING = {"quant_types": ["weight", "input", "output"], "quant_bits": 4, "op_types": ["Conv2d", "Linear"]}


class Net(nn.Module):
    """Two convolutions, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


def net() -> Net:
    """The same weights each time."""
    torch.manual_seed(0)
    return Net()


@dataclass(frozen=True)
class Share:
    """One process's part of all data."""

    rank: int = 0
    count: int = 1
    shards: Literal["", "layers", "model"] = ""
    """With ``fully_shard`` in place of DDP: on each layer and the model, or on the model alone."""

    def batches(self, number: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """So many minibatches, of which this process sees every ``count``-th example."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(number):
            y = torch.randint(0, 2, (16,), generator=generator)
            x = torch.randn(16, 1, 6, 6, generator=generator)
            x[y == 1, :, :3] += 2
            yield x[self.rank :: self.count], y[self.rank :: self.count]

    def together(self, model: nn.Module) -> nn.Module:
        """The model as it is called in training; DDP must not hide by its broadcasts that buffers differ."""
        if self.shards:
            learnt = learned_grids(model)
            for layer in model.children() if self.shards == "layers" else ():
                fully_shard(layer, ignored_params=learnt)
            return fully_shard(model, ignored_params=learnt)
        return DistributedDataParallel(model, broadcast_buffers=False) if self.count > 1 else model


def train(together: nn.Module, optimizer: Any, share: Share, number: int = 3, seed: int = 0, after: Any = None) -> None:
    """A few steps. Norms keep their statistics: those of a share are not those of the whole batch."""
    for module in together.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for x, y in share.batches(number, seed):
        optimizer.zero_grad()
        functional.cross_entropy(together(x), y).backward()
        optimizer.step()
        if after is not None:
            after()


def sgd(model: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), rate)


def masks(model: nn.Module) -> dict[str, Tensor]:
    """All masks of a model, flat."""
    return {f"{name}.{key}": mask for name, own in masks_of(model).items() for key, mask in own.items()}


def grids(model: nn.Module) -> dict[str, Tensor]:
    """All that quantizers remember, with the scales that weights have now."""
    endings = ("scale", "zero_point", "offset", "bound", "low", "high", "seen", "counts", "steps")
    return {key: value.detach().clone() for key, value in model.state_dict().items() if key.endswith(endings)}
