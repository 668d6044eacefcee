"""What masks cost: time to find them for a resnet50, memory to keep them, and a training step under them.

    python -m benchmarks.pruner_cost [--runs 9] [--json FILE]

Beside ``torch.nn.utils.prune`` in the same run: contenders take turns, one thread, medians of its CPU time; ratios are
what counts.
Random weights. FPGM has no counterpart there and is shown beside the L1 norm of the same tool. A training step is one
of SGD with momentum, on a resnet50 with 8 pictures of 224 x 224 and on a resnet18 with few and many small ones, with
half of every convolution's filters or weights masked. The tables go into docs/pruners.md.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.utils import prune

from benchmarks.pruners_page import PAGE, write_between
from torchpare.attach import detach, masks_of
from torchpare.files.atomic import atomic_write
from torchpare.pruning import FPGMPruner, L1FilterPruner, LevelPruner
from torchpare.report import Measurement, describe_machine, measure

OUT: Final = PAGE.with_suffix("") / "cost.json"
HALF: Final = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
STEPS: Final = {
    "resnet50, 8 of 224 x 224": ("resnet50", 8, 224),
    "resnet18, 64 of 64 x 64": ("resnet18", 64, 64),
    "resnet18, 16 of 64 x 64": ("resnet18", 16, 64),
}
"""Training steps: a model, how many pictures, and their size. What masks cost does not grow with the pictures."""
Step = Callable[[], object]


def vision(name: str) -> nn.Module:
    """A torchvision model with random weights."""
    from torchpare.zoo.vision import torchvision_models

    torch.manual_seed(0)
    return getattr(torchvision_models(), name)(weights=None)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """All of them."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def ours(kind: Any, model: nn.Module) -> None:
    """Mask half, and take the masks off again, so that the next turn finds the same model."""
    kind(model, HALF).compress()
    detach(model, bake=False)


def torch_structured(model: nn.Module) -> None:
    """The same with torch's own, filters by their L1 norm."""
    for layer in convolutions(model):
        prune.ln_structured(layer, "weight", 0.5, n=1, dim=0)
    _off(model)


def torch_unstructured(model: nn.Module) -> None:
    """The same with torch's own, weights by their size."""
    for layer in convolutions(model):
        prune.l1_unstructured(layer, "weight", 0.5)
    _off(model)


def _off(model: nn.Module) -> None:
    for layer in convolutions(model):
        dense = layer.weight_orig
        del layer.weight, layer._parameters["weight_orig"], layer._buffers["weight_mask"]  # noqa: SLF001 - as it was
        layer._forward_pre_hooks.clear()  # noqa: SLF001
        layer.weight = dense  # type: ignore[assignment]


def find_masks(runs: int) -> dict[str, Measurement]:
    """How long each takes for a resnet50."""
    model = vision("resnet50")
    return measure(
        {
            "torch, L1 filters": lambda: torch_structured(model),
            "L1FilterPruner": lambda: ours(L1FilterPruner, model),
            "FPGMPruner": lambda: ours(FPGMPruner, model),
            "torch, weights": lambda: torch_unstructured(model),
            "LevelPruner": lambda: ours(LevelPruner, model),
        },
        runs=runs,
        warmup=2,
        clock=time.process_time,
    )


def mask_bytes() -> dict[str, int]:
    """What the masks of a resnet50 take."""
    found = {}
    for name, kind in (("L1FilterPruner", L1FilterPruner), ("LevelPruner", LevelPruner)):
        model = vision("resnet50")
        kind(model, HALF).compress()
        found[name] = sum(mask.nbytes for own in masks_of(model).values() for mask in own.values())
    model = vision("resnet50")
    for layer in convolutions(model):
        prune.ln_structured(layer, "weight", 0.5, n=1, dim=0)
    found["torch, L1 filters"] = sum(
        buffer.nbytes for name, buffer in model.named_buffers() if name.endswith("weight_mask")
    )
    found["all weights of the convolutions"] = sum(layer.weight.nbytes for layer in convolutions(vision("resnet50")))
    return found


def stepper(model: nn.Module, batch: int, size: int) -> Step:
    """A training step."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(batch, 3, size, size, generator=generator)
    classes = torch.randint(0, 1000, (batch,), generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(pictures), classes).backward()
        optimizer.step()

    return step


def train_steps(runs: int, model: str, batch: int, size: int) -> dict[str, Measurement]:
    """How long a training step takes under masks."""
    dense = vision(model).train()
    filters, weights, torch_filters = (copy.deepcopy(dense) for _ in range(3))
    L1FilterPruner(filters, HALF, dummy_input=torch.zeros(2, 3, 64, 64)).compress()
    LevelPruner(weights, HALF).compress()
    for layer in convolutions(torch_filters):
        prune.ln_structured(layer, "weight", 0.5, n=1, dim=0)
    nets = {"dense": dense, "L1FilterPruner": filters, "LevelPruner": weights, "torch, L1 filters": torch_filters}
    return measure(
        {name: stepper(net, batch, size) for name, net in nets.items()}, runs=runs, warmup=2, clock=time.process_time
    )


def render(known: dict[str, Any], *, page: bool) -> Table:
    """The table for a terminal; with ``page``, the page's too is written."""
    masks, steps, sizes = known["masks"], known["steps"], known["bytes"]
    head = ["", "masks of a resnet50", "of torch's", "memory of the masks", *(f"step: {case}" for case in steps)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    table = Table(*head)
    first = next(iter(steps.values()))
    rivals = {"L1FilterPruner": "torch, L1 filters", "FPGMPruner": "torch, L1 filters", "LevelPruner": "torch, weights"}
    for name in dict.fromkeys([*first, *masks]):
        found, size = masks.get(name), sizes.get(name)
        words = [
            name,
            f"{1e3 * found['median']:.0f} ms" if found else "",
            f"{found['median'] / masks[rivals[name]]['median']:.2f}x" if found and name in rivals else "",
            f"{size / 2**10:,.0f} KiB" if size else "",
        ]
        for taken in steps.values():
            step, dense = taken.get(name), taken["dense"]
            words.append(f"{1e3 * step['median']:.0f} ms, {step['median'] / dense['median']:.3f}x" if step else "")
        table.add_row(*words)
        lines.append("| " + " | ".join(words) + " |")
    whole = sizes["all weights of the convolutions"] / 2**10
    about = (
        f"Medians of {first['dense']['runs']} turns, CPU time of one thread, {known['machine']}. The weights of the "
        f"resnet50's convolutions themselves take {whole:,.0f} KiB. A step is one of training, with its time over the "
        "dense net's."
    )
    if page:
        write_between("cost", "\n".join([*lines, "", about]), "benchmarks/pruner_cost.py")
    return table


def main(
    runs: Annotated[int, typer.Option(help="how many turns")] = 15,
    out: Annotated[Path, typer.Option("--json", help="the JSON file")] = OUT,
    only_render: Annotated[bool, typer.Option("--render", help="write the page from what is there")] = False,
) -> None:
    """Measure, print, and write the page."""
    torch.set_num_threads(1)
    if only_render:
        known = json.loads(out.read_text())
    else:
        known = {
            "masks": {name: taken.to_dict() for name, taken in find_masks(runs).items()},
            "steps": {
                label: {name: taken.to_dict() for name, taken in train_steps(runs, *case).items()}
                for label, case in STEPS.items()
            },
            "bytes": mask_bytes(),
            "machine": describe_machine(),
        }
        with atomic_write(out) as lent:
            lent.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    Console().print(render(known, page=out == OUT))


if __name__ == "__main__":
    typer.run(main)
