"""Dense against compressed where they will live: interleaved, in each runtime, at each batch size; and a guard.

"Compressed" is a promise of speed. The guard holds it: where a compressed model is not faster than the dense one **in
the same runtime**, the benchmark fails, and says what keeps each layer from being fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.errors import ConfigError
from torchpare.report import Measurement, measure
from torchpare.runtimes import RUNTIMES
from torchpare.runtimes.asked import batches_of, check_model, listed, threads_of, whole
from torchpare.runtimes.obstacles import obstacles
from torchpare.runtimes.peak_memory import peak_memory
from torchpare.runtimes.protocol import ModelSpeedupRuntime
from torchpare.runtimes.verify import snr

__all__ = ["Benchmark", "Row", "Slower", "benchmark"]

DENSE = "dense"


@dataclass(frozen=True)
class Row:
    """One model in one runtime at one batch size."""

    runtime: str
    batch: int
    name: str
    taken: Measurement
    file_bytes: int
    """Of what the runtime executes, as a file."""

    speedup: float
    """How many times faster than the dense model, by the medians."""

    output_snr: float
    """Of the first output, against the same model in PyTorch float32 without rounding of what is added, in dB."""

    peak_bytes: int | None = None
    """The most memory that loading and running it took in a process of its own; None where it was not measured."""


@dataclass(frozen=True)
class Slower:
    """A compressed model that is not faster than the dense one, and why."""

    row: Row
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        why = "\n".join(f"  {reason}" for reason in self.reasons) or "  nothing that is known to be slow was found"
        return (f"{self.row.name} is {self.row.speedup:.2f} times as fast as dense in {self.row.runtime} at batch "
                f"{self.row.batch}:\n{why}")  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """What was measured."""

    rows: tuple[Row, ...]
    slower: tuple[Slower, ...]

    @property
    def ok(self) -> bool:
        """Whether every compressed model is faster than the dense one, everywhere."""
        return not self.slower

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        rows = [
            {"runtime": row.runtime, "batch": row.batch, "name": row.name, "speedup": row.speedup,
             "file_bytes": row.file_bytes, "peak_bytes": row.peak_bytes,
             "output_snr": row.output_snr if row.output_snr < float("inf") else None,
             **{f"seconds_{key}": value for key, value in row.taken.to_dict().items()}}
            for row in self.rows
        ]  # fmt: skip
        guard = [{"runtime": each.row.runtime, "batch": each.row.batch, "name": each.row.name,
                  "reasons": list(each.reasons)} for each in self.slower]  # fmt: skip
        return {"ok": self.ok, "rows": rows, "slower": guard}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A row for each model, runtime and batch size, and what the guard found."""
        one = self.rows[0].taken
        title = f"milliseconds, median of {one.runs} (quartiles), {one.threads} threads, {one.environment}"
        table = Table(title=title)
        for head in ("runtime", "batch", "model"):
            table.add_column(head)
        for head in ("time", "times as fast", "file MB", "peak MB", "SNR dB"):
            table.add_column(head, justify="right")
        for row in self.rows:
            taken = row.taken
            time = f"{taken.median * 1e3:.2f} ({taken.lower_quartile * 1e3:.2f} to {taken.upper_quartile * 1e3:.2f})"
            peak = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}"
            numbers = (time, f"{row.speedup:.2f}", f"{row.file_bytes / 1e6:.2f}", peak, f"{row.output_snr:.1f}")
            table.add_row(row.runtime, str(row.batch), row.name, *numbers)
        yield table
        for each in self.slower:
            yield str(each)


def benchmark(  # noqa: PLR0913 - all but the models and their input have a default
    dense: nn.Module,
    compressed: nn.Module | Mapping[str, nn.Module],
    dummy_input: Any,
    *,
    runtimes: Sequence[str] = ("onnxruntime",),
    batch_sizes: Sequence[int] = (1,),
    calibration: Iterable[Any] | None = None,
    runs: int = 30,
    warmup: int = 5,
    threads: int | None = None,
    memory: bool = False,
) -> Benchmark:
    """Time models against each other in runtimes, taking turns.

    Args:
        dense: the model that was compressed, float.
        compressed: pruned, quantized or both; several by name. One that is quantized runs in eight bits.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments; what has the batch of
            the first tensor along its first axis is repeated to each batch size.
        runtimes: of "onnxruntime", "openvino", "inductor", "executorch", "tensorrt"; one that is named twice is one.
        batch_sizes: each is timed, once.
        calibration: for quantized models whose sums and convolutions lack grids; see
            :func:`torchpare.runtimes.build_program`. A plain model among the compressed is not quantized by it.
        runs: timed rounds, at least 2.
        warmup: rounds that go by untimed, 0 or more.
        threads: within one operator; torch's own number if None.
        memory: also measure the peak memory of each program, each in a process of its own, which takes some seconds.

    Raises:
        ConfigError: a runtime is unknown, there is nothing to compare, a model is none or is called "dense", or a
            number cannot be one.
        MissingExtraError: a runtime is not installed.
        ExportError: a model cannot be one program, or a runtime refuses it.
    """
    check_model(dense, "dense")
    contenders = _contenders(compressed)
    names = list(dict.fromkeys(listed(runtimes, "runtimes", "['onnxruntime', 'openvino']")))
    for name in names:
        if name not in RUNTIMES:
            raise ConfigError(f"runtimes names {name!r}; known are {', '.join(map(repr, RUNTIMES))}")
    sizes = [whole(size, 1, "a batch size") for size in listed(batch_sizes, "batch_sizes", "[1, 8]")]
    whole(runs, 2, "runs")
    whole(warmup, 0, "warmup")
    threads_of(threads)
    batches = None if calibration is None else list(batches_of(calibration))
    rows: list[Row] = []
    slower: list[Slower] = []
    for runtime in names:
        for size in dict.fromkeys(sizes):
            example = _of_size(dummy_input, size)
            models = {DENSE: dense, **contenders}
            found, made = _measured(runtime, models, example, batches, runs, warmup, threads, memory=memory)
            rows += found
            slower += [Slower(row, tuple(obstacles(made[row.name]))) for row in found[1:] if row.speedup <= 1]
    return Benchmark(tuple(rows), tuple(slower))


def _contenders(compressed: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    named = dict(compressed) if isinstance(compressed, Mapping) else {"compressed": compressed}
    for name, model in named.items():
        check_model(model, name)
    if not named or DENSE in named:
        raise ConfigError(f"compressed holds {', '.join(named) or 'no model'}; give one model or more, under other "
                          f"names than {DENSE!r}")  # fmt: skip
    return named


def _measured(
    runtime: str, models: Mapping[str, nn.Module], example: Any, batches: list[Any] | None, runs: int, warmup: int,
    threads: int | None, *, memory: bool,
) -> tuple[list[Row], dict[str, ModelSpeedupRuntime]]:  # fmt: skip
    from torchpare.attach import quantizers_of

    made: dict[str, ModelSpeedupRuntime] = {}
    for name, model in models.items():
        quantized = next(quantizers_of(model), None) is not None
        made[name] = RUNTIMES[runtime](
            model, dummy_input=example, threads=threads, calib_data_loader=batches if quantized else None
        )
        made[name].compress()
    taken = measure(
        {name: each.runner(example) for name, each in made.items()},
        runs=runs, warmup=warmup, runtime=made[DENSE].runtime, threads=made[DENSE].threads,
    )  # fmt: skip
    size = next(leaf.shape[0] for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor))
    rows = []
    for name, each in made.items():
        path = Path(each.folder()) / "measured"
        each.export_quantized_model(path)
        ratio = taken[DENSE].median / taken[name].median
        first = next(leaf for leaf in pytree.tree_leaves(each.inference(example)[0]) if isinstance(leaf, Tensor))
        peak = peak_memory(runtime, path, each.tensors(example), each.threads) if memory else None
        rows.append(Row(each.runtime, size, name, taken[name], path.stat().st_size, ratio,
                        snr(each.model_output(example), first), peak))  # fmt: skip
    return rows, made


def _of_size(example: Any, size: int) -> Any:
    """An example whose tensors are repeated, or cut, along the batch."""
    leaves = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor) and leaf.dim()]
    if not leaves:
        raise ConfigError("dummy_input holds no tensor with a batch")
    batch = leaves[0].shape[0]

    def sized(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim() or leaf.shape[0] != batch:
            return leaf
        try:
            return leaf[torch.arange(size) % batch]
        except RuntimeError as error:
            raise ConfigError(f"an input of batch {size} does not fit into memory") from error

    return pytree.tree_map(sized, example)
