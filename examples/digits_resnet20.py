"""The main job, end to end, on real scans: train, prune, fine-tune, shrink, prove, save, reload, quantize, measure.

    python examples/digits_resnet20.py                # three seeds, about three minutes on two cores; also: make demo
    python examples/digits_resnet20.py --help

It ends with one table, dense against small, and writes the same as report.json and report.html.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from digits import Digits, accuracy, read_digits, scores, train
from digits_int8 import to_int8
from digits_report import PROVED_ON, Plan, Run, make_report
from resnet20 import ResNet20
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from safetensors.torch import load_file, save_file

import torchpare
from torchpare import ModelSpeedup
from torchpare.files.onnx import check_onnx, export_onnx
from torchpare.pruning import L1FilterPruner
from torchpare.report import Curve, comparison_table, write_html

HERE = Path(__file__).parent
STEPS = 6  # of a seed beside its epochs: prune, export, shrink, reload, onnx, int8


def compress(seed: int, data: Digits, plan: Plan, folder: Path, say: Callable[[str], None]) -> Run:
    """Train a ResNet-20, halve its filters, and prove at every step that nothing else has changed."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pictures = data.test_pictures

    # A net like any other, trained like any other.
    model = ResNet20(plan.width)
    learnt = train(model, data, plan.epochs, 0.1, generator, after_epoch=lambda share: say(f"trains, {share:.1%}"))
    dense = copy.deepcopy(model)
    torchpare.save(dense, folder / "dense.safetensors")

    # Mask the weakest filters of every convolution; layers joined by a residual lose the same channels.
    config_list = [{"sparsity": plan.sparsity, "op_types": ["Conv2d"]}]
    pruner = L1FilterPruner(model, config_list, dependency_aware=True, dummy_input=pictures[:2])
    model = pruner.compress()
    pruned = accuracy(model, data)
    say(f"pruned, {pruned:.1%}")
    tuned = train(model, data, plan.tune_epochs, 0.05, generator, listener=pruner,
                  after_epoch=lambda share: say(f"fine-tunes, {share:.1%}"))  # fmt: skip
    pruner.export_model(model_path=folder / "model.pth", mask_path=folder / "mask.pth")
    masked_scores = scores(model, pictures)
    say("exported")

    # Cut the masked channels out of the very same model; the report compares before and after in float64.
    shrink = ModelSpeedup(model, pictures[:PROVED_ON], folder / "mask.pth").speedup_model()
    small_scores = scores(model, pictures)
    torchpare.save(model, folder / "small.safetensors")
    say("shrunk")

    # Somebody else loads it, in a process that never heard of masks.
    save_file({"pictures": pictures}, folder / "pictures.safetensors")
    files = [str(folder / f"{name}.safetensors") for name in ("small", "pictures", "scores")]
    options = ["--width", str(plan.width), "--threads", str(plan.threads)]
    subprocess.run([sys.executable, str(HERE / "reload_small.py"), *files, *options], check=True)
    reloaded = load_file(folder / "scores.safetensors")["scores"]
    say("reloaded")

    export_onnx(model, folder / "small.onnx", pictures[:1])
    onnx_difference = check_onnx(model, folder / "small.onnx", pictures)
    say("in ONNX Runtime")

    # The same in eight bits, with and without an epoch of training; accuracies are what ONNX Runtime reads.
    int8 = to_int8(model, data, folder, plan.threads, generator)
    say(f"in int8, {int8.trained:.1%}")

    largest = float(masked_scores.abs().max())
    curve = Curve(f"seed {seed}", tuple(learnt), pruned, tuple(tuned), accuracy(model, data))
    return Run(
        folder,
        dense,
        model,
        curve,
        shrink,
        test_difference=float((small_scores - masked_scores).abs().max()) / largest,
        reload_difference=float((reloaded - small_scores).abs().max()),
        onnx_difference=onnx_difference / largest,
        int8=int8,
    )


def main(
    seeds: Annotated[int, typer.Option(min=1, help="how many nets to train, from the seeds 0, 1, ...")] = 3,
    out: Annotated[Path, typer.Option(help="where everything is written")] = Path("runs/demo"),
    epochs: Annotated[int, typer.Option(min=1, help="of training the dense net")] = 6,
    tune_epochs: Annotated[int, typer.Option(min=1, help="of fine-tuning with masks")] = 4,
    width: Annotated[int, typer.Option(min=2, help="channels of the first stage")] = 48,
    sparsity: Annotated[float, typer.Option(min=0, max=0.99, help="the share of filters to prune")] = 0.5,
    runs: Annotated[int, typer.Option(min=2, help="how often each latency is measured")] = 100,
    threads: Annotated[
        int, typer.Option(min=1, help="for PyTorch and ONNX Runtime; one is measured most steadily")
    ] = 1,
) -> None:
    """Halve the filters of a ResNet-20 on scanned digits and measure what that changes."""
    plan = Plan(seeds, epochs, tune_epochs, width, sparsity, runs, threads)
    torch.set_num_threads(plan.threads)
    console = Console()
    start = time.perf_counter()
    data = read_digits()
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("[dim]{task.fields[state]}"), console=console)  # fmt: skip
    with bar:
        tasks = [
            bar.add_task(f"seed {seed}", total=epochs + tune_epochs + STEPS, state="", start=False)
            for seed in range(seeds)
        ]
        tasks.append(bar.add_task("latency", total=6, state="", start=False))

        def say(task: TaskID, state: str) -> None:
            bar.update(task, advance=1, state=state)
            if not console.is_terminal:  # where a bar cannot move, lines tell how far it is
                console.print(f"{bar.tasks[task].description} {state}", highlight=False)

        finished = []
        for seed in range(seeds):
            bar.start_task(tasks[seed])
            finished.append(compress(seed, data, plan, out / f"seed{seed}", partial(say, tasks[seed])))
        bar.start_task(tasks[-1])
        report = make_report(finished, data, plan, start, partial(say, tasks[-1]))
    report.write_json(out / "report.json")
    write_html(report, out / "report.html")
    console.print(comparison_table(report))
    console.print(f"Took {report.settings['Whole run']}. The same, to look at: {out / 'report.html'}", highlight=False)
    if not all(proof.holds for proof in report.proofs):
        raise typer.Exit(code=1)


if __name__ == "__main__":
    typer.run(main)
