"""Four fifths of a ResNet-20's filters are pruned; it is fine-tuned twice, without and with the dense net as a teacher.

    python examples/distillation.py                          # in a minute
    python examples/distillation.py --sparsity 0.9 --epochs 8

The teacher is a copy of the dense net. Beside its soft targets, the student learns from what the teacher's stages
return: the channels that were kept are compared with those of the teacher that they are, so no layer in between is
needed.
"""

from __future__ import annotations

import copy
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from digits import BATCH, Digits, accuracy, read_digits, train
from resnet20 import ResNet20
from rich.console import Console
from rich.table import Table
from torch import nn

from torchpare import ModelSpeedup
from torchpare.distillation import Distiller, HiddenStates, SoftTargets, dense_teacher
from torchpare.pruning import L1FilterPruner

TERMS = [SoftTargets(temperature=4.0, weight=0.9), HiddenStates(["layer1", "layer2", "layer3"], weight=0.1)]


def fine_tune(student: nn.Module, data: Digits, epochs: int, distiller: Distiller | None = None) -> float:
    """A loop like any other, and the lines that distillation adds to it; the accuracy it reaches."""
    optimizer = torch.optim.SGD(student.parameters(), 0.03, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    chance = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        student.train()
        for chosen in torch.randperm(len(data.train_digits), generator=chance).split(BATCH):
            pictures, digits = data.train_pictures[chosen], data.train_digits[chosen]
            optimizer.zero_grad()
            output = student(pictures)
            loss = F.cross_entropy(output, digits)
            if distiller is not None:
                loss = 0.1 * loss + distiller(output, pictures)
            loss.backward()
            optimizer.step()
        schedule.step()
    return accuracy(student, data)


def main(
    sparsity: Annotated[float, typer.Option(min=0, max=0.99, help="the share of filters to prune")] = 0.8,
    dense_epochs: Annotated[int, typer.Option(min=1, help="of training the dense net")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="of fine-tuning")] = 5,
    width: Annotated[int, typer.Option(min=2, help="channels of the first stage")] = 16,
) -> None:
    """Prune, shrink, and fine-tune by labels alone and with a teacher."""
    data = read_digits()
    torch.manual_seed(0)
    model = ResNet20(width)
    train(model, data, dense_epochs, 0.1, torch.Generator().manual_seed(0))
    teacher = dense_teacher(model)
    table = Table("", "test accuracy", "parameters")
    table.add_row("dense", f"{accuracy(model, data):.1%}", f"{sum(p.numel() for p in model.parameters()):,}")

    example = data.train_pictures[:2]
    config_list = [{"sparsity": sparsity, "op_types": ["Conv2d"]}]
    L1FilterPruner(model, config_list, dependency_aware=True, dummy_input=example).compress()
    ModelSpeedup(model, example).speedup_model()
    small = f"{sum(p.numel() for p in model.parameters()):,}"
    table.add_row("pruned", f"{accuracy(model, data):.1%}", small)

    alone, taught = copy.deepcopy(model), model
    table.add_row("fine-tuned", f"{fine_tune(alone, data, epochs):.1%}", small)
    with Distiller(taught, teacher, TERMS) as distiller:
        table.add_row("fine-tuned with a teacher", f"{fine_tune(taught, data, epochs, distiller):.1%}", small)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
