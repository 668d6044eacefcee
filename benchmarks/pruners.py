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
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import nn

from benchmarks.digits_nets import NETS, Budget, accuracy, dense_net, read_digits
from benchmarks.pruners_methods import BY_HAND, METHODS, WHOLE, suits
from benchmarks.pruners_page import render
from torchpare.errors import ShrinkError
from torchpare.files.atomic import atomic_write
from torchpare.report import describe_machine

Result = dict[str, Any]

OUT: Final = Path(__file__).parents[1] / "docs" / "pruners" / "quality.json"
SPARSITIES: Final = (0.5, 0.8)


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
    if method in WHOLE:
        kept = sum(int((getattr(layer, "weight") != 0).sum()) for layer in small.modules() if hasattr(layer, "weight"))  # noqa: B009
    else:
        kept = sum(parameter.numel() for parameter in small.parameters())
    found = {"accuracy": accuracy(small, data)}
    if method in BY_HAND:  # silenced channels are still there
        return found
    thinnest = min(layer.out_channels for layer in small.modules() if isinstance(layer, nn.Conv2d))
    return found | {"left": kept / before, "thinnest": thinnest}


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
        wanted = [
            (net, method, sparsity, seed)
            for net in nets.split(",") for method in methods.split(";") for sparsity in SPARSITIES
            for seed in range(seeds)
            if suits(method, net)
        ]  # fmt: skip
        fill(known, wanted, one, epochs, jobs, out, "pruning")
    Console().print(render(known, page=out == OUT))


def fill(
    known: dict[str, Any], wanted: list[Any], one: Callable[..., Any], epochs: int, jobs: int, out: Path, title: str
) -> None:
    """Work out the cells that are missing, in processes of their own; each is on the disk as soon as it is known.

    Args:
        known: what is there already; filled in.
        wanted: cells; a cell begins with its net and ends with its seed.
        one: works out a cell, ``(cell, epochs=..., folder=...)``; the folder holds the dense nets.
        epochs: of training for every method.
        jobs: processes at a time.
        out: the JSON file.
        title: of the progress bar.
    """
    folder = Path("runs") / "pruners"
    folder.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    known |= {"epochs": epochs, "seeds": len({cell[-1] for cell in wanted}), "machine": describe_machine()}
    for net, seed in dict.fromkeys((cell[0], cell[-1]) for cell in wanted):
        known["dense"][f"{net}|{seed}"] = train_dense(net, seed, folder)
    cells = [cell for cell in wanted if "|".join(map(str, cell)) not in known["cells"]]
    console = Console(stderr=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    does = partial(one, epochs=epochs, folder=str(folder))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(does, cell): cell for cell in cells}
        for done in track(as_completed(running), title, len(running), console=console, disable=not console.is_terminal):
            known["cells"]["|".join(map(str, running[done]))] = done.result()
            with atomic_write(out) as lent:
                lent.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
