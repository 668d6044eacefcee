"""Accuracy against measured latency: every search beside the same L1 share for all layers, on ResNet-20 and digits.

    python -m benchmarks.search_frontier [--seeds 2] [--epochs 12] [--jobs 2]
    python -m benchmarks.search_frontier --render

Each search is told to leave a share of the multiply-accumulates, goes by a fifth of the training pictures that the
candidates do not learn from, and its result is fine-tuned by the same number of epochs as all others; what NetAdapt,
SensitivityPruner and AutoCompress train on their way comes on top; the table says how long each search took. Layers
keep multiples of 8 channels, but in the row that says otherwise. One row more is a search that is told a latency in
ONNX Runtime. At the end all small nets are timed there, taking turns, one thread, a batch of 32.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
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
from rich.table import Table
from torch import nn

from benchmarks.digits_nets import NETS, Budget, Digits, accuracy, loss_of, read_digits
from benchmarks.pruners import train_dense
from benchmarks.pruners_page import PAGE, write_between
from torchpare import ModelSpeedup, load, save
from torchpare.files.atomic import atomic_write
from torchpare.files.onnx import export_onnx, runner
from torchpare.pruning import (
    AMCPruner,
    AutoCompressPruner,
    BudgetSearchPruner,
    NetAdaptPruner,
    SensitivityPruner,
    SimulatedAnnealingPruner,
)
from torchpare.report import describe_machine, measure
from torchpare.search import Objective

OUT: Final = PAGE.with_suffix("") / "frontier.json"
NET: Final = "ResNet-20"
SHARES: Final = (0.6, 0.4, 0.2)
"""Of the multiply-accumulates, what stays."""
OF_LATENCY: Final = 0.75
"""Of the latency, what may stay in the row that is told so. So small a net spends much of it on calling its layers."""

Search = Callable[..., Any]


def worth(model: nn.Module, held_back: Digits) -> float:
    """What searches go by."""
    return accuracy(model, held_back)


def tune(model: nn.Module, seed: int, data: Digits) -> None:
    """An epoch for a candidate."""
    budget = Budget(data, seed, 1, rate=0.01)
    budget.trainer(model, budget.optimizer(model))


def train_epoch(model: nn.Module, optimizer: Any, criterion: Any, epoch: int, data: Digits) -> None:
    """An epoch for ADMM."""
    del epoch
    Budget(data, 0, 1, rate=0.01).trainer(model, optimizer, criterion)


def parts_of(data: Digits) -> tuple[Digits, Digits]:
    """Four fifths of the training pictures to learn from, and one to judge candidates by."""
    cut = len(data.train_digits) * 4 // 5
    learnt = Digits(data.train_pictures[:cut], data.train_digits[:cut], data.test_pictures, data.test_digits)
    judged = Digits(learnt.train_pictures, learnt.train_digits, data.train_pictures[cut:], data.train_digits[cut:])
    return learnt, judged


def searches(model: nn.Module, share: float, seed: int, folder: Path, data: Digits) -> dict[str, Search]:
    """By name, what makes a pruner."""
    learnt, judged = parts_of(data)
    config = [{"sparsity": 1 - share, "op_types": ["Conv2d"]}]
    judge, short = partial(worth, held_back=judged), partial(tune, seed=seed, data=learnt)
    common: dict[str, Any] = {
        "objective": "macs", "dummy_input": data.train_pictures[:32], "seed": seed, "round_to": 8
    }  # fmt: skip
    any_width: dict[str, Any] = common | {"round_to": 1}
    by_time: dict[str, Any] = common | {"objective": Objective("latency", runtime="onnxruntime", runs=30)}
    here: dict[str, Any] = {"experiment_data_dir": folder}
    return {
        "L1, one share for all": lambda: BudgetSearchPruner(model, config, judge, 1, **here, **common),
        "L1, one share, any width": lambda: BudgetSearchPruner(model, config, judge, 1, **here, **any_width),
        "NetAdaptPruner": lambda: NetAdaptPruner(
            model, config, short, judge, sparsity_per_iteration=0.1, **here, **common
        ),
        "SimulatedAnnealingPruner": lambda: SimulatedAnnealingPruner(model, config, judge, **here, **common),
        "SensitivityPruner": lambda: SensitivityPruner(
            model, config, judge, short, sparsity_per_iter=0.25, acc_drop_threshold=0.05, **here, **common
        ),
        "AutoCompressPruner": lambda: AutoCompressPruner(
            model, config, partial(train_epoch, data=learnt), judge, common["dummy_input"], loss_of, num_iterations=2,
            stop_temperature=50, admm_num_iterations=2, admm_epochs_per_iteration=1, row=1e-2, objective="macs",
            seed=seed, round_to=8, **here,
        ),
        "AMCPruner": lambda: AMCPruner(
            model, config, judge, flops_ratio=share, train_episode=100, warmup=25, channel_round=8, lbound=0.1,
            output_dir=folder, objective="macs", dummy_input=common["dummy_input"], seed=seed,
        ),
        "BudgetSearchPruner": lambda: BudgetSearchPruner(model, config, judge, 40, **here, **common),
        "BudgetSearchPruner, latency": lambda: BudgetSearchPruner(
            model, config, judge, 8, **here, **by_time
        ),
    }  # fmt: skip


def one(cell: tuple[str, float, int], epochs: int, nets: str, small: str) -> dict[str, Any]:
    """Search, fine-tune, shrink, test, and save the small net."""
    name, share, seed = cell
    torch.set_num_threads(1)
    data = read_digits()
    model = NETS[NET][0]()
    model.load_state_dict(torch.load(Path(nets) / f"{NET}-{seed}.pt", weights_only=True))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        searches(model, share, seed, Path(folder), data)[name]().compress()
    took = time.perf_counter() - start
    if name != "AutoCompressPruner":  # which has shrunk it already
        ModelSpeedup(model, data.train_pictures[:2]).speedup_model()
    Budget(data, seed, epochs).spend(model)
    save(model, Path(small) / f"{name}-{share}-{seed}.safetensors")
    return {
        "accuracy": accuracy(model, data),
        "seconds": took,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def time_all(known: dict[str, Any], small: Path) -> None:
    """Time every small net of the first seed, and the dense one, taking turns."""
    torch.set_num_threads(1)
    data = read_digits()
    batch, contenders = data.test_pictures[:32], {}
    with tempfile.TemporaryDirectory() as folder:
        for key in ["dense", *(key for key in known["cells"] if key.endswith("|0"))]:
            model = NETS[NET][0]().eval()
            if key != "dense":
                load(model, small / f"{key.replace('|', '-')}.safetensors")
            path = Path(folder) / f"{len(contenders)}.onnx"
            export_onnx(model, path, batch)
            contenders[key] = runner(path, batch, threads=1)
    found = measure(contenders, runs=200, warmup=20, threads=1, runtime="ONNX Runtime")
    known["latency"] = {key: taken.to_dict() for key, taken in found.items()}


def render(known: dict[str, Any], *, page: bool) -> Table:
    """The table for a terminal; with ``page``, the page's table and picture are written too."""
    cells = known["cells"]
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        name, share, _ = key.split("|")
        rows.setdefault((share, name), []).append(cell)
    dense = known["latency"]["dense"]["median"]
    table = Table(
        "MACs left", "search", "test accuracy, %", "latency", "search took", title=f"{NET}, after fine-tuning"
    )
    lines = ["| MACs left | search | test accuracy, % | latency | search took |", "|---|---|---|---|---|"]
    order = list(searches(nn.Module(), 0.5, 0, Path(), read_digits()))
    for (share, name), group in sorted(rows.items(), key=lambda row: (-float(row[0][0]), order.index(row[0][1]))):
        values = [100 * cell["accuracy"] for cell in group]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        taken = known["latency"][f"{name}|{share}|0"]
        asked = "by latency" if name.endswith("latency") else f"{float(share):.0%}"
        reached = f"{statistics.fmean(values):.1f} ± {spread:.1f}"
        took = f"{statistics.fmean(cell['seconds'] for cell in group):.0f} s"
        words = [asked, name, reached, f"{taken['median'] / dense:.2f} of dense", took]
        table.add_row(*words)
        lines.append("| " + " | ".join(words) + " |")
    about = (
        f"{known['seeds']} seeds; dense {100 * statistics.fmean(known['dense'].values()):.1f} %, "
        f"{1000 * dense:.2f} ms in ONNX Runtime for a batch of 32, one thread ({known['machine']})."
    )
    if page:
        write_between("frontier", "\n".join([*lines, "", about]), "benchmarks/search_frontier.py")
        draw(rows, known, order)
    return table


def draw(rows: dict[tuple[str, str], list[dict[str, Any]]], known: dict[str, Any], order: list[str]) -> None:
    """A line for each search: how fast, and how right."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "torchpare"
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5))
    dense = known["latency"]["dense"]["median"]
    for name in order:
        points = []
        for (share, its_name), group in rows.items():
            if its_name == name:
                taken = known["latency"][f"{name}|{share}|0"]["median"]
                points.append((taken / dense, 100 * statistics.fmean(cell["accuracy"] for cell in group)))
        if points:
            points.sort()
            style = {"color": "black", "linewidth": 2.5} if name == order[0] else {}
            axis.plot(*zip(*points, strict=True), marker="o", label=name, **style)
    axis.axhline(100 * statistics.fmean(known["dense"].values()), color="#9ca3af", linestyle=":", label="dense")
    axis.set_xlabel("latency in ONNX Runtime, of dense")
    axis.set_ylabel("test accuracy, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    with atomic_write(PAGE.with_suffix("") / "frontier.svg") as lent:
        figure.savefig(lent, format="svg", metadata={"Date": None})
    plt.close(figure)


def main(
    seeds: Annotated[int, typer.Option(help="how many")] = 2,
    epochs: Annotated[int, typer.Option(help="of fine-tuning")] = 12,
    jobs: Annotated[int, typer.Option(help="processes at a time")] = 2,
    out: Annotated[Path, typer.Option(help="the JSON file")] = OUT,
    only_render: Annotated[bool, typer.Option("--render", help="write the page from what is there")] = False,
) -> None:
    """Fill in what is missing, time, print, and write the page."""
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"cells": {}}
    if not only_render:
        nets, small = Path("runs") / "pruners", Path("runs") / "frontier"
        small.mkdir(parents=True, exist_ok=True)
        nets.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"
        known |= {"seeds": seeds, "epochs": epochs, "machine": describe_machine()}
        known["dense"] = {str(seed): train_dense(NET, seed, nets) for seed in range(seeds)}
        names = list(searches(nn.Module(), 0.5, 0, Path(), read_digits()))
        cells = [
            (name, share, seed)
            for name in names
            for share in ((OF_LATENCY,) if name.endswith("latency") else SHARES)
            for seed in range(seeds)
        ]
        missing = [cell for cell in cells if "|".join(map(str, cell)) not in known["cells"]]
        console = Console(stderr=True)
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(one, cell, epochs, str(nets), str(small)): cell for cell in missing}
            done_ones = as_completed(running)
            for done in track(done_ones, "searching", len(running), console=console, disable=not console.is_terminal):
                known["cells"]["|".join(map(str, running[done]))] = done.result()
                with atomic_write(out) as lent:
                    lent.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        time_all(known, small)
        with atomic_write(out) as lent:
            lent.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    Console().print(render(known, page=out == OUT))


if __name__ == "__main__":
    typer.run(main)
