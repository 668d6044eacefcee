"""Time and peak memory of prune + shrink, beside Torch-Pruning on the same models in the same run.

    python benchmarks/shrink.py [--models resnet50,vgg16_bn] [--runs 5] [--json FILE]

Half of every group of coupled channels goes, by L1 norm, from a model with random weights and a dummy input of
1x3x224x224. Each run is a process of its own, the tools take turns, and medians are printed with their quartiles. Time
starts with the built model in memory and ends with the small one; memory is the peak above what the built model takes.
Torch-Pruning does not check its result; torchpare is shown with its float64 proof and without.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

TOOLS = ("torchpare", "torchpare, proved", "Torch-Pruning")


def prune_with_torchpare(model: nn.Module, dummy_input: torch.Tensor, *, verify: bool) -> None:
    """Mask half of every group of channels, then shrink."""
    from torchpare import ModelSpeedup
    from torchpare.pruning import L1FilterPruner

    config_list = [{"sparsity": 0.5, "op_types": ["Conv2d", "Linear"]}, {"exclude": True, "op_names": [_head(model)]}]
    L1FilterPruner(model, config_list, dependency_aware=True, dummy_input=dummy_input).compress()
    ModelSpeedup(model, dummy_input, verify=verify).speedup_model()


def prune_with_torch_pruning(model: nn.Module, dummy_input: torch.Tensor) -> None:
    """The same with Torch-Pruning's pruner of coupled groups."""
    import torch_pruning  # type: ignore[reportMissingImports] - installed by `make bench` alone

    torch_pruning.pruner.BasePruner(
        model,
        dummy_input,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=[model.get_submodule(_head(model))],
    ).step()


def _head(model: nn.Module) -> str:
    """The name of the last linear layer: its outputs are the classes."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def measure(tool: str, name: str) -> dict[str, float]:
    """One run, in this process: seconds, peak MiB above the built model, and the share of parameters kept."""
    from tests.support.vision import torchvision_models

    model = getattr(torchvision_models(), name)(weights=None).eval()
    dummy_input = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    before = sum(parameter.numel() for parameter in model.parameters())
    if tool == "Torch-Pruning":
        import torch_pruning  # type: ignore[reportMissingImports]  # noqa: F401 - not on the clock
    else:
        import torchpare.pruning
        import torchpare.speedup  # noqa: F401
    resting = _reset_peak()
    start = time.perf_counter()
    if tool == "Torch-Pruning":
        prune_with_torch_pruning(model, dummy_input)
    else:
        prune_with_torchpare(model, dummy_input, verify=tool.endswith("proved"))
    seconds = time.perf_counter() - start
    after = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        model(dummy_input)  # a small model that does not run is no result
    return {"seconds": seconds, "mebibytes": (_status("VmHWM") - resting) / 1024, "kept": after / before}


def _reset_peak() -> int:
    """Start the kernel's peak counter anew; returns the KiB in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main(
    models: Annotated[str, typer.Option(help="torchvision models, separated by commas")] = "resnet50,vgg16_bn",
    runs: Annotated[int, typer.Option(help="runs of each tool on each model")] = 5,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the figures here too")] = None,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure and print."""
    if worker is not None:
        tool, name = worker.split("/")
        print(json.dumps(measure(tool, name)))
        return
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    jobs = [(name, tool) for name in models.split(",") for _ in range(runs) for tool in TOOLS]
    for name, tool in track(jobs, "measuring", console=Console(stderr=True)):
        command = [sys.executable, __file__, "--worker", f"{tool}/{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{tool} on {name} failed:\n{done.stderr}")
        results.setdefault(name, {}).setdefault(tool, []).append(json.loads(done.stdout.splitlines()[-1]))
    summary = {name: {tool: _summary(rows) for tool, rows in tools.items()} for name, tools in results.items()}
    Console().print(_table(summary, runs))
    if json_path is not None:
        json_path.write_text(json.dumps({"environment": _environment(), "runs": runs, "models": summary}, indent=2))


def _summary(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Lower quartile, median and upper quartile of each figure."""
    rows = rows if len(rows) > 1 else rows * 2
    return {key: quantiles([row[key] for row in rows], n=4, method="inclusive") for key in rows[0]}


def _environment() -> dict[str, Any]:
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}


def _table(summary: dict[str, dict[str, dict[str, list[float]]]], runs: int) -> Table:
    environment = ", ".join(f"{key} {value}" for key, value in _environment().items())
    table = Table(title=f"prune + shrink, half of every group, median of {runs} (quartiles); {environment}")
    table.add_column("model")
    table.add_column("tool")
    for column in ("seconds", "against Torch-Pruning", "peak MiB on top", "parameters kept"):
        table.add_column(column, justify="right")
    for name, tools in summary.items():
        base = tools["Torch-Pruning"]["seconds"][1]
        for tool, figures in tools.items():
            low, seconds, high = figures["seconds"]
            table.add_row(
                name,
                tool,
                f"{seconds:.2f} ({low:.2f} to {high:.2f})",
                f"{seconds / base:.2f}x",
                f"{figures['mebibytes'][1]:.0f}",
                f"{figures['kept'][1]:.1%}",
            )
    return table


if __name__ == "__main__":
    typer.run(main)
