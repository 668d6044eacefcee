"""Latency of a shrunk model beside the same architecture built natively at those widths.

    python -m benchmarks.latency [--models resnet50,bert] [--runs 40] [--json FILE]

Half of every group goes from a model with random weights. Its native twin consists of the same modules, each made anew
by its own constructor with the small sizes, so that every tensor is freshly allocated; it is given the small model's
values and must return the very same numbers. Dense model, shrunk model and twin take turns; what is told is medians
with their quartiles, in CPU time of one thread: that is the latency on an idle core, and what else runs on the machine
counts as little as it can. A second twin takes its turns too: how far it seems to differ from the first, which it
equals in everything, is how far any two figures of this table may differ by chance.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from torchpare import plan
from torchpare.report import Measurement, measure

CONFIG: Final = [{"sparsity": 0.5, "structures": ["all"]}]
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Latency:
    """What was measured of one model."""

    dense: Measurement
    shrunk: Measurement
    native: Measurement
    again: Measurement
    """A second native twin: the noise."""
    parameters: tuple[int, int]
    rebuilt: int
    """How many modules of the twin came from their constructor."""

    @property
    def ratio(self) -> float:
        """Shrunk against native."""
        return self.shrunk.median / self.native.median

    @property
    def noise(self) -> float:
        """One native twin against the other."""
        return self.again.median / self.native.median


def convolutional(name: str) -> tuple[nn.Module, Any]:
    """One of torchvision's classifiers."""
    from torchpare.zoo.vision import torchvision_models

    return getattr(torchvision_models(), name)(weights=None), torch.randn(1, 3, 224, 224)


def bert() -> tuple[nn.Module, Any]:
    """An encoder of 6 layers, 512 wide, on 128 tokens."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=8000, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048
    )
    return BertModel(config, add_pooling_layer=False), {"input_ids": torch.randint(0, 8000, (1, 128))}


def llama() -> tuple[nn.Module, Any]:
    """A decoder of 6 layers, 512 wide, with grouped queries, on 128 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=1536,
        use_cache=False,
    )
    return LlamaForCausalLM(config), {"input_ids": torch.randint(0, 8000, (1, 128))}


BUILDERS: Final[dict[str, Callable[[], tuple[nn.Module, Any]]]] = {
    "resnet50": lambda: convolutional("resnet50"),
    "mobilenet_v2": lambda: convolutional("mobilenet_v2"),
    "bert": bert,
    "llama": llama,
}


def native_twin(small: nn.Module) -> tuple[nn.Module, int]:
    """The same architecture at the same widths, nothing of which was ever cut, with the values of ``small``.

    Returns:
        the twin, and how many of its modules were made by their constructors. The tensors of the others (norms and
        tables that a library made for itself) are allocated anew.
    """
    twin = deepcopy(small)
    rebuilt = 0
    for path, module in list(twin.named_modules()):
        made = _made_anew(module)
        if made is not None:
            rebuilt += 1
            parent, _, name = path.rpartition(".")
            setattr(twin.get_submodule(parent), name, made.train(module.training))
            continue
        for key, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
        for key, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype).copy_(buffer)  # noqa: SLF001
    twin.load_state_dict(small.state_dict())
    return twin, rebuilt


def _made_anew(module: nn.Module) -> nn.Module | None:
    """A module of the same class from its constructor, for the layers of torch.nn that hold nearly all weights."""
    if type(module) in _CONVOLUTIONS:
        assert isinstance(module, _CONVOLUTIONS)
        out, slots = module.weight.shape[:2]
        return type(module)(
            slots * module.groups,
            out,
            module.kernel_size,  # type: ignore[reportArgumentType] - of the class's own rank
            stride=module.stride,  # type: ignore[reportArgumentType]
            padding=module.padding,  # type: ignore[reportArgumentType]
            dilation=module.dilation,  # type: ignore[reportArgumentType]
            groups=module.groups,
            bias=module.bias is not None,
            padding_mode=module.padding_mode,
        )
    if type(module) is nn.Linear:
        out, inputs = module.weight.shape
        return nn.Linear(inputs, out, bias=module.bias is not None)
    if type(module) in _BATCH_NORMS:
        assert isinstance(module, _BATCH_NORMS)
        return type(module)(len(module.weight), module.eps, module.momentum, module.affine, module.track_running_stats)
    if type(module) is nn.LayerNorm:
        return nn.LayerNorm(module.weight.shape, module.eps, bias=module.bias is not None)
    if type(module) is nn.Embedding:
        return nn.Embedding(*module.weight.shape, padding_idx=module.padding_idx)
    return None


@torch.no_grad()
def compare(name: str, runs: int) -> Latency:
    """Shrink one model and time it beside its twin.

    Raises:
        SystemExit: the twin does not return what the small model returns.
    """
    torch.manual_seed(0)
    dense, example = BUILDERS[name]()
    dense.eval()
    small = deepcopy(dense)
    with torch.enable_grad():
        plan(small, CONFIG, example).apply(verify=False)
    twin, rebuilt = native_twin(small)
    again, _ = native_twin(small)
    if not all(map(torch.equal, _tensors(_run(small, example)), _tensors(_run(twin, example)))):
        raise SystemExit(f"the native twin of {name} is not the same function as the small model")
    contenders = {"dense": dense, "shrunk": small, "native": twin, "again": again}
    runners = {key: _runner(model, example) for key, model in contenders.items()}
    taken = measure(runners, runs=runs, clock=time.process_time)
    return Latency(**taken, parameters=(_parameters(dense), _parameters(small)), rebuilt=rebuilt)


def _runner(model: nn.Module, example: Any) -> Callable[[], object]:
    return lambda: _run(model, example)


def _run(model: nn.Module, example: Any) -> Any:
    return model(**example) if isinstance(example, dict) else model(example)


def _tensors(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [v for v in output.values() if isinstance(v, Tensor)]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main(
    models: Annotated[str, typer.Option(help="which models, separated by commas")] = ",".join(BUILDERS),
    runs: Annotated[int, typer.Option(help="runs of each contender")] = 40,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the figures here too")] = None,
) -> None:
    """Measure and print."""
    from torchpare.zoo.vision import torchvision_models

    torchvision_models()  # before transformers, which imports torchvision too
    torch.set_num_threads(1)  # CPU time adds up over threads
    found = {name: compare(name, runs) for name in track(models.split(","), "measuring", console=Console(stderr=True))}
    Console(width=None if sys.stdout.isatty() else 160).print(_table(found, runs))
    if json_path is not None:
        json_path.write_text(json.dumps({name: _as_json(latency) for name, latency in found.items()}, indent=2))


def _table(found: dict[str, Latency], runs: int) -> Table:
    one = next(iter(found.values())).shrunk
    title = f"CPU milliseconds, batch of 1, median of {runs} (quartiles); {one.runtime}, {one.threads} thread"
    table = Table(title=f"{title}, {one.environment}")
    table.add_column("model")
    for column in ("parameters kept", "dense", "shrunk", "native twin", "shrunk / native", "twin / twin"):
        table.add_column(column, justify="right")
    for name, latency in found.items():
        before, after = latency.parameters
        times = (_milliseconds(m) for m in (latency.dense, latency.shrunk, latency.native))
        table.add_row(name, f"{after / before:.1%}", *times, f"{latency.ratio:.3f}", f"{latency.noise:.3f}")
    return table


def _milliseconds(taken: Measurement) -> str:
    return f"{taken.median * 1e3:.1f} ({taken.lower_quartile * 1e3:.1f} to {taken.upper_quartile * 1e3:.1f})"


def _as_json(latency: Latency) -> dict[str, Any]:
    times = {key: getattr(latency, key).to_dict() for key in ("dense", "shrunk", "native", "again")}
    return {
        **times,
        "ratio": latency.ratio,
        "noise": latency.noise,
        "parameters": latency.parameters,
        "rebuilt_modules": latency.rebuilt,
    }


if __name__ == "__main__":
    typer.run(main)
