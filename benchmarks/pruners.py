"""Accuracy after pruning: every pruner, three nets, two sparsities, three seeds, and the same training for all.

    python -m benchmarks.pruners [--nets LeNet] [--methods L1FilterPruner] [--seeds 3] [--epochs 12] [--jobs 2]
    python -m benchmarks.pruners --render        # writes the tables and the picture into docs/pruners.md

Nets learn scikit-learn's digits; a quarter of them is for testing and chooses nothing. Each method gets the same dense
net and the same number of epochs, its own included. Filters leave the net for good before it is tested; single weights
are zero. Beside ours in the same run: ``torch.nn.utils.prune`` and Torch-Pruning. What is done is kept in the JSON file
at once, and not done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn.utils import prune

from benchmarks.digits_nets import NETS, Budget, accuracy, dense_net, loss_of, read_digits
from benchmarks.pruners_page import render
from torchpare import ModelSpeedup
from torchpare.errors import ShrinkError
from torchpare.files.atomic import atomic_write
from torchpare.pruning import (
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
    ADMMPruner,
    AGPPruner,
    FPGMPruner,
    HessianFilterPruner,
    L1FilterPruner,
    L2FilterPruner,
    LevelPruner,
    LinearPruner,
    LotteryTicketPruner,
    MovementPruner,
    RandomFilterPruner,
    SlimPruner,
    TaylorFOActivationFilterPruner,
    TaylorFOWeightFilterPruner,
)
from torchpare.report import describe_machine

Result = dict[str, Any]
Method = Callable[[nn.Module, float, Budget, Any], nn.Module]

OUT: Final = Path(__file__).parents[1] / "docs" / "pruners" / "quality.json"
SPARSITIES: Final = (0.5, 0.8)


def _filters(sparsity: float) -> list[dict[str, Any]]:
    return [{"sparsity": sparsity, "op_types": ["Conv2d"]}]


def _weights(sparsity: float) -> list[dict[str, Any]]:
    return [{"sparsity": sparsity, "op_types": ["Conv2d", "Linear"]}]


def at_once(kind: Any) -> Method:
    """Filters go by what the weights say."""

    def run(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
        kind(model, _filters(sparsity), dependency_aware=True, dummy_input=example).compress()
        budget.spend(model)
        return shrunk(model, example)

    return run


def with_half(kind: Any) -> Method:
    """As `at_once`, with half of the epochs: what methods have left that train for the other half first."""

    def run(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
        kind(model, _filters(sparsity), dependency_aware=True, dummy_input=example).compress()
        budget.epochs //= 2
        budget.spend(model)
        return shrunk(model, example)

    return run


def by_data(kind: Any) -> Method:
    """Filters go by what an epoch of training says."""

    def run(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
        kind(
            model, _filters(sparsity), budget.optimizer(model), budget.trainer, loss_of,
            sparsifying_training_batches=10, dependency_aware=True, dummy_input=example,
        ).compress()  # fmt: skip
        budget.spend(model)
        return shrunk(model, example)

    return run


def gradually(kind: Any, **options: Any) -> Method:
    """More and more goes in the first half of the epochs."""

    def run(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
        fine = options.get("pruning_algorithm", "level") == "level"
        kind(
            model, _weights(sparsity) if fine else _filters(sparsity), budget.optimizer(model), budget.trainer, loss_of,
            num_iterations=budget.epochs // 2, dependency_aware=not fine, dummy_input=example, **options,
        ).compress()  # fmt: skip
        budget.spend(model)
        return model if fine else shrunk(model, example)

    return run


def slim(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Norms are trained to be sparse for half of the epochs, then the smallest of the whole net go."""
    entry = [{"sparsity": sparsity, "op_types": ["BatchNorm2d"]}]
    SlimPruner(
        model, entry, budget.optimizer(model), budget.trainer, loss_of,
        sparsifying_training_epochs=budget.epochs // 2, scale=1e-3, dummy_input=example,
    ).compress()  # fmt: skip
    budget.spend(model)
    return shrunk(model, example)


def admm(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Weights are trained towards being sparse for half of the epochs."""
    ADMMPruner(
        model, _filters(sparsity), budget.trainer, loss_of, num_iterations=budget.epochs // 4, epochs_per_iteration=2,
        row=1e-2, optimizer=budget.optimizer(model), dependency_aware=True, dummy_input=example,
    ).compress()  # fmt: skip
    budget.spend(model)
    return shrunk(model, example)


def lottery(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Three rounds of weights, each from the dense net's weights again."""
    del example
    rounds = 3
    entry = [{**_weights(sparsity)[0], "prune_iterations": rounds}]
    optimizer = budget.optimizer(model)
    pruner = LotteryTicketPruner(model, entry, optimizer)
    pruner.compress()
    for number in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        for _ in range(budget.epochs // (rounds + 1) if number < rounds else budget.epochs - budget.used):
            budget.trainer(model, optimizer)
    return model


def movement(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Weights go that training moves towards zero, from the second epoch to the middle."""
    del example
    batches = len(budget.data.train_digits) // 64
    MovementPruner(
        model, _weights(sparsity), budget.optimizer(model), budget.trainer, loss_of, training_epochs=budget.epochs,
        warm_up_step=batches, cool_down_beginning_step=batches * budget.epochs // 2,
    ).compress()  # fmt: skip
    return model


def level(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """The smallest weights of each layer."""
    del example
    LevelPruner(model, _weights(sparsity)).compress()
    budget.spend(model)
    return model


def torch_structured(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """``torch.nn.utils.prune.ln_structured``: filters of each convolution are zero, and stay where they are."""
    del example
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            prune.ln_structured(layer, "weight", amount=int(layer.out_channels * sparsity), n=1, dim=0)
    budget.spend(model)
    return model


def torch_unstructured(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """``torch.nn.utils.prune.l1_unstructured``: the smallest weights of each layer."""
    del example
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(layer, "weight", amount=sparsity)
    budget.spend(model)
    return model


def torch_pruning(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Torch-Pruning's group magnitude pruner: filters are gone before the fine-tuning."""
    import torch_pruning as tp  # type: ignore[reportMissingImports] - installed by `make bench` alone

    head: list[nn.Module] = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    tp.pruner.BasePruner(
        model, example, importance=tp.importance.GroupMagnitudeImportance(p=1), pruning_ratio=sparsity,
        ignored_layers=head,
    ).step()  # fmt: skip
    budget.spend(model)
    return model


METHODS: Final[dict[str, Method]] = {
    "L1FilterPruner": at_once(L1FilterPruner),
    "L1FilterPruner, half of the epochs": with_half(L1FilterPruner),
    "L2FilterPruner": at_once(L2FilterPruner),
    "FPGMPruner": at_once(FPGMPruner),
    "RandomFilterPruner": at_once(RandomFilterPruner),
    "SlimPruner": slim,
    "TaylorFOWeightFilterPruner": by_data(TaylorFOWeightFilterPruner),
    "TaylorFOActivationFilterPruner": by_data(TaylorFOActivationFilterPruner),
    "HessianFilterPruner": by_data(HessianFilterPruner),
    "ActivationAPoZRankFilterPruner": by_data(ActivationAPoZRankFilterPruner),
    "ActivationMeanRankFilterPruner": by_data(ActivationMeanRankFilterPruner),
    "AGPPruner, l1": gradually(AGPPruner, pruning_algorithm="l1"),
    "LinearPruner, l1": gradually(LinearPruner, pruning_algorithm="l1"),
    "AGPPruner, taylorfo": gradually(AGPPruner, pruning_algorithm="taylorfo"),
    "ADMMPruner": admm,
    "Torch-Pruning, L1": torch_pruning,
    "torch prune, L1 filters": torch_structured,
    "LevelPruner": level,
    "AGPPruner, level": gradually(AGPPruner),
    "LotteryTicketPruner": lottery,
    "MovementPruner": movement,
    "torch prune, weights": torch_unstructured,
}
"""By the name that the table says."""

FINE: Final = frozenset(
    {"LevelPruner", "AGPPruner, level", "LotteryTicketPruner", "MovementPruner", "torch prune, weights"}
)


def shrunk(model: nn.Module, example: Any) -> nn.Module:
    """Small, and proved."""
    ModelSpeedup(model, example).speedup_model()
    return model


def one(cell: tuple[str, str, float, int], epochs: int, folder: str) -> Result:
    """One cell: a dense net from a seed, pruned and trained by one method, tested."""
    net, method, sparsity, seed = cell
    torch.set_num_threads(1)
    data = read_digits()
    small = NETS[net][0]()
    small.load_state_dict(torch.load(Path(folder) / f"{net}-{seed}.pt", weights_only=True))
    torch.manual_seed(seed)
    budget = Budget(data, seed, epochs)
    before = sum(parameter.numel() for parameter in small.parameters())
    try:
        small = METHODS[method](small, sparsity, budget, data.train_pictures[:2])
    except (ShrinkError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    assert budget.used == budget.epochs, (method, budget.used)
    if method in FINE or method == "torch prune, L1 filters":
        kept = sum(int((getattr(layer, "weight") != 0).sum()) for layer in small.modules() if hasattr(layer, "weight"))  # noqa: B009
    else:
        kept = sum(parameter.numel() for parameter in small.parameters())
    thinnest = min(layer.out_channels for layer in small.modules() if isinstance(layer, nn.Conv2d))
    return {"accuracy": accuracy(small, data), "left": kept / before, "thinnest": thinnest}


def train_dense(net: str, seed: int, folder: Path) -> float:
    """The dense net of a seed, once; its accuracy."""
    path = folder / f"{net}-{seed}.pt"
    data = read_digits()
    if path.exists():
        model = NETS[net][0]()
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        model = dense_net(net, seed, data)
        with atomic_write(path) as lent:
            torch.save(model.state_dict(), lent)
    return accuracy(model, data)


def main(
    nets: Annotated[str, typer.Option(help="which, comma-separated")] = ",".join(NETS),
    methods: Annotated[str, typer.Option(help="which, separated by semicolons")] = ";".join(METHODS),
    seeds: Annotated[int, typer.Option(help="how many")] = 3,
    epochs: Annotated[int, typer.Option(help="of training for every method")] = 12,
    jobs: Annotated[int, typer.Option(help="processes at a time")] = 2,
    out: Annotated[Path, typer.Option(help="the JSON file")] = OUT,
    only_render: Annotated[bool, typer.Option("--render", help="write the page from what is there")] = False,
) -> None:
    """Fill in what is missing, print the table, and write the page, unless the JSON file is another one."""
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"dense": {}, "cells": {}}
    if not only_render:
        folder = Path("runs") / "pruners"
        folder.mkdir(parents=True, exist_ok=True)
        known |= {"epochs": epochs, "seeds": seeds, "machine": describe_machine()}
        torch.set_num_threads(1)
        wanted = [
            (net, method, sparsity, seed)
            for net in nets.split(",") for method in methods.split(";") for sparsity in SPARSITIES
            for seed in range(seeds)
            if not (net == "LeNet" and method == "SlimPruner")  # it has no batch norms
        ]  # fmt: skip
        for net in nets.split(","):
            for seed in range(seeds):
                known["dense"][f"{net}|{seed}"] = train_dense(net, seed, folder)
        _fill(
            known,
            [cell for cell in wanted if "|".join(map(str, cell)) not in known["cells"]],
            epochs,
            jobs,
            folder,
            out,
        )
    Console().print(render(known, page=out == OUT))


def _fill(
    known: dict[str, Any], cells: list[tuple[str, str, float, int]], epochs: int, jobs: int, folder: Path, out: Path
) -> None:
    console = Console(stderr=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(one, cell, epochs, str(folder)): cell for cell in cells}
        for done in track(
            as_completed(running), "pruning", len(running), console=console, disable=not console.is_terminal
        ):
            known["cells"]["|".join(map(str, running[done]))] = done.result()
            with atomic_write(out) as lent:
                lent.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
