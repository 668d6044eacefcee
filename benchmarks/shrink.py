"""Time and peak memory of prune + shrink, beside Torch-Pruning on the same models in the same run.

    python -m benchmarks.shrink [--models resnet50,swin_t] [--runs 3] [--limit 120] [--json FILE]

Half of every group that can lose something goes, by L1 norm, from a model with random weights and a dummy input of
1x3x224x224. Each run is a process of its own, the tools take turns, and medians are printed with their quartiles. Time
starts with the built model in memory and ends with the small one; it is CPU time of one thread, so that what else runs
on the machine counts as little as it can. Memory is the peak above what the built model takes. Each tool has pruned a
net of four layers before, so that what it loads on first use counts for no model.
A small model that does not run is no result, nor is one that is not there after ``--limit`` seconds: such a tool fails
on that model, and is asked no second time. Torch-Pruning does not check its result; torchpare is shown with its float64
proof, without, and without but with the dense weights in an ``offload_folder`` until it is done. A LLaMA of a billion
parameters stands on the meta device, where there are no weights: it is analysed and planned, and nothing more.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any, Final, TypeAlias

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

RIVAL: Final = "Torch-Pruning"
LLAMA: Final = "llama-1b (meta)"
OFFLOADED: Final = "torchpare, offloaded"
TOOLS: Final = ("torchpare", OFFLOADED, "torchpare, proved", RIVAL)
PLANNERS: Final = ("torchpare, analysis", "torchpare, plan", RIVAL)
MODELS: Final = f"resnet50,vgg16_bn,vit_b_16,swin_t,densenet121,resnext101_32x8d,{LLAMA}"
CONFIG: Final = [{"sparsity": 0.5, "structures": ["all"]}]
MIB: Final = 2**20

Row: TypeAlias = dict[str, float]
Results: TypeAlias = dict[str, dict[str, "list[Row] | str"]]
"""By model and tool the figures of every run, or why there are none."""


def build(name: str) -> tuple[nn.Module, Any]:
    """A model by name, in evaluation mode, and what to call it with."""
    from torchpare.zoo.vision import torchvision_models

    vision = torchvision_models()  # before transformers, which imports torchvision too
    if name != LLAMA:
        model = getattr(vision, name)(weights=None).eval()
        return model, torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048,
        num_hidden_layers=16,
        intermediate_size=8192,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=32000,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config).eval(), torch.ones(1, 16, dtype=torch.long)


def job(tool: str, model: nn.Module, dummy_input: Any) -> Callable[[], float]:
    """What a tool does on the clock; returns the share of parameters kept. What it needs is imported here."""
    whole = _parameters(model)
    if tool == RIVAL:
        import torch_pruning  # type: ignore[reportMissingImports] - installed by `make bench` alone

        def prune() -> float:
            torch_pruning.pruner.BasePruner(
                model,
                dummy_input,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
                pruning_ratio=0.5,
                ignored_layers=[_head(model)],
                output_transform=lambda output: getattr(output, "logits", output),
                **_attentions(model),
            ).step()
            return _parameters(model) / whole

        return prune
    from torchpare import plan
    from torchpare.graph import analyse

    if tool == "torchpare, analysis":
        return lambda: float("nan") if analyse(model, dummy_input).sizing.equations else 1.0

    def plan_and_shrink() -> float:
        planned = plan(model, CONFIG, dummy_input)
        if tool == OFFLOADED:
            with tempfile.TemporaryDirectory() as folder:
                planned.apply(verify=False, offload_folder=folder)
        elif tool != "torchpare, plan":
            planned.apply(verify=tool.endswith("proved"))
        return planned.parameters[1] / whole

    return plan_and_shrink


def _attentions(model: nn.Module) -> dict[str, Any]:
    """What Torch-Pruning has to be told of attention: the layers that make heads, and how many."""
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(getattr(module, "num_heads", None), int):
            heads[getattr(module, "qkv", module)] = module.num_heads  # type: ignore[reportArgumentType]
    return {"num_heads": heads, "prune_num_heads": True, "head_pruning_ratio": 0.5} if heads else {}


def _head(model: nn.Module) -> nn.Module:
    """The last linear layer: its outputs are the classes."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def _first_net() -> tuple[nn.Module, torch.Tensor]:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    return nn.Sequential(*layers).eval(), torch.ones(1, 3, 8, 8)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def measure(tool: str, name: str) -> Row:
    """One run, in this process: seconds, peak MiB above the built model, MiB of the small one, share of parameters."""
    torch.set_num_threads(1)  # CPU time adds up over threads
    model, dummy_input = build(name)
    job(tool, *_first_net())()
    run = job(tool, model, dummy_input)
    resting = _reset_peak()
    start = time.process_time()
    kept = run()
    seconds = time.process_time() - start
    peak = (_status("VmHWM") - resting) / 1024
    if name != LLAMA:
        with torch.no_grad():
            model(dummy_input)  # a small model that does not run is no result
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_meta]
    small = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB
    return {"seconds": seconds, "mebibytes": peak, "small": small, "kept": kept}


def _reset_peak() -> int:
    """Start the kernel's peak counter anew; returns the KiB in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main(
    models: Annotated[str, typer.Option(help="torchvision models and the LLaMA, separated by commas")] = MODELS,
    runs: Annotated[int, typer.Option(help="runs of each tool on each model")] = 3,
    limit: Annotated[int, typer.Option(help="seconds after which a run has failed")] = 60,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the figures here too")] = None,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure and print."""
    if worker is not None:
        tool, name = worker.split("/")
        print(json.dumps(measure(tool, name)))
        return
    results: Results = {}
    jobs = [
        (name, tool)
        for name in models.split(",")
        for _ in range(runs)
        for tool in (PLANNERS if name == LLAMA else TOOLS)
    ]
    for name, tool in track(jobs, "measuring", console=Console(stderr=True)):
        known = results.setdefault(name, {}).setdefault(tool, [])
        if isinstance(known, str):
            continue
        answer = _in_own_process(tool, name, limit)
        if isinstance(answer, str):
            results[name][tool] = answer
        else:
            known.append(answer)
    summary = {
        name: {tool: rows if isinstance(rows, str) else _summary(rows) for tool, rows in tools.items()}
        for name, tools in results.items()
    }
    Console(width=None if sys.stdout.isatty() else 160).print(_table(summary, runs))
    if json_path is not None:
        json_path.write_text(json.dumps({"environment": _environment(), "runs": runs, "models": summary}, indent=2))


def _in_own_process(tool: str, name: str, limit: int) -> Row | str:
    """The figures of one run, or the last line of what went wrong."""
    command = [sys.executable, __file__, "--worker", f"{tool}/{name}"]
    plain = {**os.environ, "TYPER_STANDARD_TRACEBACK": "1"}  # it ends with the message, in one piece
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=plain)
    except subprocess.TimeoutExpired:
        return f"fails: not done after {limit} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return f"fails: {lines[-1]}"
    return json.loads(done.stdout.splitlines()[-1])


def _summary(rows: list[Row]) -> dict[str, list[float]]:
    """Lower quartile, median and upper quartile of each figure."""
    rows = rows if len(rows) > 1 else rows * 2
    return {key: quantiles([row[key] for row in rows], n=4, method="inclusive") for key in rows[0]}


def _environment() -> dict[str, Any]:
    return {"torch": torch.__version__, "threads": 1, "machine": platform.machine()}


def _table(summary: dict[str, dict[str, dict[str, list[float]] | str]], runs: int) -> Table:
    environment = ", ".join(f"{key} {value}" for key, value in _environment().items())
    table = Table(title=f"prune + shrink, half of every group, median of {runs} (quartiles); {environment}")
    table.add_column("model")
    table.add_column("tool")
    table.add_column("CPU seconds", justify="right", overflow="fold")
    for column in (f"against {RIVAL}", "peak MiB on top", "small model MiB", "parameters kept"):
        table.add_column(column, justify="right")
    for name, tools in summary.items():
        rival = tools[RIVAL]
        for tool, figures in tools.items():
            if isinstance(figures, str):
                table.add_row(name, tool, figures, "", "", "", "")
                continue
            low, seconds, high = figures["seconds"]
            kept, small = figures["kept"][1], figures["small"][1]
            table.add_row(
                name,
                tool,
                f"{seconds:.2f} ({low:.2f} to {high:.2f})",
                "" if isinstance(rival, str) else f"{seconds / rival['seconds'][1]:.2f}x",
                f"{figures['mebibytes'][1]:.0f}",
                f"{small:.0f}" if name != LLAMA else "no weights",
                f"{kept:.1%}" if kept == kept else "",  # noqa: PLR0124 - an analysis decides nothing: NaN
            )
    return table


if __name__ == "__main__":
    typer.run(main)
