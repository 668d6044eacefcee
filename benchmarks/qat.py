"""What training under fake quantization costs: a step of it over a step of the float model.

    python -m benchmarks.qat [--runs 11] [--net resnet18] [--no-eager] [--compiled] [--recompute] [--no-rivals]
        [--only NAME] [--json FILE]

A resnet18 on 16 pictures of 64 x 64, and a small transformer on 16 texts of 64 tokens; weights and outputs of every
convolution and linear layer at 8 bits. Beside it, where they are installed: torchao (PT2E, the XNNPACK rules of its own
tests; its rules for x86 refuse a resnet18) and Brevitas (``layerwise_quantize``). Contenders take turns, one thread,
medians; ratios are what counts. Random weights: what is learnt does not matter here. ``--compiled`` puts everyone,
the float model too, through ``torch.compile``; ``--recompute`` lets it work values of the forward pass out again in the
backward pass where it would keep them for their age, for everyone too. The table goes into docs/quantizers.md; what was
measured before stays.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._dynamo import config as torch_dynamo
from torch._functorch import config as torch_functorch

from benchmarks.pruner_cost import vision
from benchmarks.pruners_page import write_between
from torchpare.files.atomic import atomic_write
from torchpare.quantization import LsqQuantizer, QAT_Quantizer
from torchpare.report import describe_machine, measure

PAGE: Final = Path(__file__).parents[1] / "docs" / "quantizers.md"
OUT: Final = PAGE.with_suffix("") / "qat.json"
Step = Callable[[], object]


class Block(nn.Module):
    """Attention and two linear layers, each after a norm and beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Of (N, tokens, width)."""
        y = self.norm1(x)
        parts = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Sequential):
    """Four blocks of width 256, of 64 tokens out of 1000."""

    def __init__(self) -> None:
        super().__init__(nn.Embedding(1000, 256), *(Block(256, 8) for _ in range(4)), nn.Linear(256, 1000))


def transformer() -> nn.Module:
    """With random weights."""
    torch.manual_seed(0)
    return Transformer()


def pictures() -> tuple[Tensor, Tensor]:
    """A batch for a resnet18."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, 64, 64, generator=generator), torch.randint(0, 1000, (16,), generator=generator)


def texts() -> tuple[Tensor, Tensor]:
    """A batch for the transformer: the next token is what it learns."""
    tokens = torch.randint(0, 1000, (16, 65), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


NETS: Final[dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]]] = {
    "resnet18": (lambda: vision("resnet18"), pictures),
    "transformer": (transformer, texts),
}


def ours(kind: Any, fold: bool, model: nn.Module, example: Tensor) -> nn.Module:
    """One of our quantizers on every convolution and linear layer."""
    types = sorted({type(layer).__name__ for layer in model.modules()} & {"Conv2d", "Linear"})
    config = [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": types}]
    more = {"dummy_input": example} if fold else {}
    return kind(model, config, **more).compress()


def torchao(model: nn.Module, example: Tensor) -> nn.Module:
    """PT2E of torchao."""
    # Installed by `make bench` alone.
    from torchao.quantization.pt2e import move_exported_model_to_train  # type: ignore[reportMissingImports]
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e  # type: ignore[reportMissingImports]
    from torchao.testing.pt2e import _xnnpack_quantizer as rules  # type: ignore[reportMissingImports]

    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # its patterns know the other only
    wish = rules.get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    graph = torch.export.export(model, (example,)).module()
    prepared = prepare_qat_pt2e(graph, rules.XNNPACKQuantizer().set_global(wish))
    move_exported_model_to_train(prepared)
    return prepared


def brevitas(model: nn.Module, example: Tensor) -> nn.Module:
    """Layers of Brevitas in place of torch's."""
    from brevitas.graph.quantize import layerwise_quantize  # type: ignore[reportMissingImports]

    del example
    return layerwise_quantize(model)


CONTENDERS: Final[dict[str, Callable[[nn.Module, Tensor], nn.Module]]] = {
    "QAT_Quantizer": lambda model, example: ours(QAT_Quantizer, True, model, example),
    "QAT_Quantizer, norms not folded": lambda model, example: ours(QAT_Quantizer, False, model, example),
    "LsqQuantizer": lambda model, example: ours(LsqQuantizer, False, model, example),
    "torchao": torchao,
    "brevitas": brevitas,
}


def stepper(model: nn.Module, batch: tuple[Tensor, Tensor], compiled: bool) -> Step:
    """A training step."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    inputs, classes = batch
    run = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(run(inputs).flatten(0, -2), classes.flatten()).backward()
        optimizer.step()

    return step


def contend(net: str, runs: int, compiled: bool, rivals: bool, only: list[str] | None = None) -> dict[str, Any]:
    """How long a step of each takes; in words, where one cannot be measured."""
    make, data = NETS[net]
    # Contenders share code, of which each compiles a version of its own.
    torch_dynamo.recompile_limit = 256
    dense, batch = make().train(), data()
    steps, failed = {"float": stepper(copy.deepcopy(dense), batch, compiled)}, {}
    for name, quantize in CONTENDERS.items():
        if only and name not in only:
            failed[name] = "not run"
            continue
        if name in ("torchao", "brevitas") and (not rivals or find_spec(name) is None):
            failed[name] = "not installed" if rivals else "not run"
            continue
        try:
            step = stepper(quantize(copy.deepcopy(dense), batch[0]), batch, compiled)
            step()
            steps[name] = step
        except Exception as error:
            if name not in ("torchao", "brevitas"):
                raise
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:90]
    return {
        name: taken.to_dict() for name, taken in measure(steps, runs=runs, warmup=3, clock=time.process_time).items()
    } | failed


def render(known: dict[str, Any], *, page: bool) -> Table:
    """The table for a terminal; with ``page``, the page's too is written."""
    columns = list(known["steps"])
    head = ["", *columns]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    table = Table(*head)
    for name in ("float", *CONTENDERS):
        words = [name]
        for column in columns:
            steps = known["steps"][column]
            took = steps[name]
            told = took if isinstance(took, str) else (
                f"{1e3 * took['median']:.0f} ms, {took['median'] / steps['float']['median']:.2f}x"
            )  # fmt: skip
            words.append(told)
        table.add_row(*words)
        lines.append("| " + " | ".join(words) + " |")
    if page:
        about = f"CPU time: medians of {known['runs']} turns or more, one thread, {known['machine']}."
        write_between("qat", "\n".join([*lines, "", about]), "benchmarks/qat.py", page=PAGE)
    return table


def main(
    runs: Annotated[int, typer.Option(help="how many turns")] = 11,
    net: Annotated[list[str] | None, typer.Option(help="resnet18, transformer; both if not given")] = None,
    eager: Annotated[bool, typer.Option(help="measure eager steps")] = True,
    compiled: Annotated[bool, typer.Option(help="measure compiled ones")] = False,
    recompute: Annotated[bool, typer.Option(help="compiled ones that keep less for the backward pass")] = False,
    rivals: Annotated[bool, typer.Option(help="torchao and Brevitas too; compiling these takes minutes")] = True,
    only: Annotated[list[str] | None, typer.Option(help="which contenders; all if not given")] = None,
    out: Annotated[Path, typer.Option("--json", help="the JSON file")] = OUT,
    only_render: Annotated[bool, typer.Option("--render", help="write the page from what is there")] = False,
) -> None:
    """Measure, print, and write the page."""
    torch.set_num_threads(1)
    torch_functorch.ban_recompute_used_far_apart = not recompute
    compiling = "compiled, recomputing" if recompute else "compiled"
    if only_render:
        known = json.loads(out.read_text())
    else:
        steps = {
            f"{chosen}, {compiling if through else 'eager'}": contend(chosen, runs, through, rivals, only)
            for through in (False, True)
            if (compiled if through else eager)
            for chosen in net or NETS
        }
        before = json.loads(out.read_text()) if out.exists() else {"steps": {}, "runs": runs}
        fewest = min(runs, before["runs"])
        known = {"steps": before["steps"] | steps, "runs": fewest, "machine": describe_machine()}
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as lent:
            lent.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    Console().print(render(known, page=out == OUT))


if __name__ == "__main__":
    typer.run(main)
