"""What a teacher adds to fine-tuning: three nets, most of their filters pruned, three seeds, equal training for all.

    python -m benchmarks.distillation [--nets LeNet] [--methods 'fine-tuning;soft targets'] [--seeds 3] [--jobs 2]
    python -m benchmarks.distillation --tune --nets LeNet,VGG --epochs 6      # what weights were chosen by
    python -m benchmarks.distillation --render        # writes the table into docs/distillation.md

The nets, their dense training and the budget of epochs are those of benchmarks/pruners.py. L1FilterPruner takes filters
with all that hangs on them, the net is shrunk, and then it is trained; a quarter of the digits is for testing and
chooses nothing. The teacher is the dense net. Labels count 0.1 and soft targets 0.9 at temperature 4, as set before the
first run; what features count beside these was chosen on another seed, without the test pictures. The last two rows are
for those who have pictures and few labels. Results go to docs/distillation/quality.json; what is there already is not
run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.digits_nets import NETS, Budget, Digits, accuracy, dense_net, loss_of, read_digits
from benchmarks.distillation_page import render
from benchmarks.pruners import fill
from torchpare import ModelSpeedup
from torchpare.distillation import (
    AttentionMaps,
    Distiller,
    HiddenStates,
    Relations,
    SoftTargets,
    Term,
    dense_teacher,
)
from torchpare.pruning import L1FilterPruner

OUT: Final = Path(__file__).parents[1] / "docs" / "distillation" / "quality.json"
SPARSITIES: Final = (0.8, 0.9)
LAYERS: Final = {
    "LeNet": ["1", "4"],
    "VGG": ["5", "12", "19"],
    "ResNet-20": ["layer1", "layer2", "layer3"],
}
"""What each block ends with."""
LAST: Final = {"LeNet": ["8"], "VGG": ["22"], "ResNet-20": ["layer3"]}
"""What the classifier reads."""
SOFT: Final = SoftTargets(temperature=4.0, weight=0.9)
FEATURES: Final[dict[str, Callable[[str, float], Term]]] = {
    "hidden states": lambda net, weight: HiddenStates(LAYERS[net], weight=weight),
    "attention maps": lambda net, weight: AttentionMaps(LAYERS[net], weight=weight, channels="all"),
    "relations": lambda net, weight: Relations(LAST[net], weight=weight),
}
WEIGHTS: Final = {"hidden states": 0.1, "attention maps": 1.0, "relations": 1.0}
"""The best of ``--tune``."""
FEW: Final = "fine-tuning, a tenth of the labels"
UNLABELLED: Final = "soft targets, no labels"
METHODS: Final = ("fine-tuning", "soft targets", *(f"soft targets, {name}" for name in FEATURES), FEW, UNLABELLED)
TUNING: Final = (0.1, 1.0, 10.0, 100.0)


def terms_of(method: str, net: str, weight: float | None = None) -> list[Term]:
    """The terms by the name that the table says."""
    if method in ("fine-tuning", FEW):
        return []
    if method == UNLABELLED:
        return [SOFT]
    _, _, name = method.partition(", ")
    features = [FEATURES[name](net, WEIGHTS[name] if weight is None else weight)] if name else []
    return [SOFT, *features]


def a_tenth(data: Digits, seed: int) -> Digits:
    """With one in ten of the training pictures, each ten times, so that an epoch has as many steps."""
    number = len(data.train_digits)
    chosen = torch.randperm(number, generator=torch.Generator().manual_seed(seed))[: number // 10].repeat(10)
    return replace(data, train_pictures=data.train_pictures[chosen], train_digits=data.train_digits[chosen])


def learnt(
    net: str, dense: Path, sparsity: float, terms: list[Term], data: Digits, seed: int, epochs: int, labels: float = 0.1
) -> float:
    """The accuracy of a dense net that was pruned, shrunk and trained with these terms, labels counting so much."""
    model = NETS[net][0]()
    model.load_state_dict(torch.load(dense, weights_only=True))
    teacher = dense_teacher(model)
    torch.manual_seed(seed)
    example = data.train_pictures[:2]
    config_list = [{"sparsity": sparsity, "op_types": ["Conv2d"]}]
    L1FilterPruner(model, config_list, dependency_aware=True, dummy_input=example).compress()
    ModelSpeedup(model, example).speedup_model()
    budget = Budget(data, seed, epochs)
    if terms:
        # An infinite loss is a result here: the net has learnt nothing.
        distiller = Distiller(model, teacher, terms, check_finite=False)

        def lesson(output: Tensor, digits: Tensor, pictures: Tensor) -> Tensor:
            taught = distiller(output, pictures)
            return labels * loss_of(output, digits) + taught if labels else taught

        budget.lesson = lesson
    budget.spend(model)
    return accuracy(model, data)


def one(cell: tuple[str, str, float, int], epochs: int, folder: str) -> float:
    """One cell: a net, a method, a sparsity and a seed."""
    net, method, sparsity, seed = cell
    torch.set_num_threads(1)
    data = read_digits()
    return learnt(
        net, Path(folder) / f"{net}-{seed}.pt", sparsity, terms_of(method, net),
        a_tenth(data, seed) if method == FEW else data, seed, epochs, 0.0 if method == UNLABELLED else 0.1,
    )  # fmt: skip


def tune(nets: list[str], epochs: int) -> Table:
    """What each weight of features reaches on a fifth of the training pictures, learning from the others."""
    torch.set_num_threads(1)
    data, seed = read_digits(), 100
    order = torch.randperm(len(data.train_digits), generator=torch.Generator().manual_seed(seed))
    held, own = order[: len(order) // 5], order[len(order) // 5 :]
    pictures, digits = data.train_pictures, data.train_digits
    part = Digits(pictures[own], digits[own], pictures[held], digits[held])
    table = Table("features", *map(str, TUNING), title="accuracy on held-out training pictures, mean over nets")
    with TemporaryDirectory() as folder:
        for net in nets:
            torch.save(dense_net(net, seed, part).state_dict(), Path(folder) / f"{net}.pt")
        for name in FEATURES:
            row = []
            for weight in TUNING:
                reached = [
                    learnt(net, Path(folder) / f"{net}.pt", sparsity, terms_of(f"soft targets, {name}", net, weight),
                           part, seed, epochs)
                    for net in nets for sparsity in SPARSITIES
                ]  # fmt: skip
                row.append(f"{sum(reached) / len(reached):.2%}")
            table.add_row(name, *row)
    return table


def main(
    nets: Annotated[str, typer.Option(help="which, comma-separated")] = ",".join(NETS),
    methods: Annotated[str, typer.Option(help="which, separated by semicolons")] = ";".join(METHODS),
    seeds: Annotated[int, typer.Option(help="how many")] = 3,
    epochs: Annotated[int, typer.Option(help="of training for every method")] = 12,
    jobs: Annotated[int, typer.Option(help="processes at a time")] = 2,
    out: Annotated[Path, typer.Option("--json", help="the JSON file")] = OUT,
    tuning: Annotated[bool, typer.Option("--tune", help="only try weights, without the test pictures")] = False,
    only_render: Annotated[bool, typer.Option("--render", help="write the page from what is there")] = False,
) -> None:
    """Fill in what is missing, print the table, and write the page, unless the JSON file is another one."""
    if tuning:
        Console().print(tune(nets.split(","), epochs))
        return
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"dense": {}, "cells": {}}
    if not only_render:
        wanted = [
            (net, method, sparsity, seed)
            for net in nets.split(",") for method in methods.split(";") for sparsity in SPARSITIES
            for seed in range(seeds)
        ]  # fmt: skip
        fill(known, wanted, one, epochs, jobs, out, "learning")
    Console().print(*render(known, list(METHODS), list(SPARSITIES), {UNLABELLED: FEW}, page=out == OUT))


if __name__ == "__main__":
    typer.run(main)
