"""What each layer costs: multiply-accumulates, parameters, and the time it takes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.config.layers import type_name
from torchpare.errors import ConfigError
from torchpare.insight.batches import Batches
from torchpare.insight.laid_out import IN_CHART, charts, folded
from torchpare.insight.layers import leaves
from torchpare.insight.rest import at_rest, device_of, run_once, stand_in
from torchpare.insight.timing import time_modules
from torchpare.report import Block, Cell, ChartBlock, Column, Measurement, TableBlock, count_flops_params, numbers
from torchpare.report.layer_figures import Bar, bars, skyline

__all__ = ["Costs", "LayerCost", "check_runs", "layer_costs"]

REST = "(between layers)"
"""The name of what modules that call others do themselves: additions, reshapes, functions."""

_CSS = {"time": "accent", "MACs": "dense"}


@dataclass(frozen=True)
class LayerCost:
    """What one module costs, without the modules that it calls."""

    name: str
    kind: str
    """The name of its class."""
    calls: int
    """In one pass."""
    macs: int
    """Multiply-accumulates for one sample, of all its calls."""
    params: int
    """Parameters that no layer above it in the list has."""
    seconds: float
    """The median of a pass; with its hooks."""
    lower_quartile: float
    upper_quartile: float


@dataclass(frozen=True)
class Costs:
    """What each layer costs, in the order in which they are first called."""

    layers: tuple[LayerCost, ...]
    whole: Measurement
    """One pass, without hooks."""
    watched: Measurement
    """The same with hooks, as layers were timed."""
    batch: int
    """How many samples a pass had."""

    @property
    def macs(self) -> int:
        """Of one sample."""
        return sum(layer.macs for layer in self.layers)

    @property
    def params(self) -> int:
        """Of the model, each once."""
        return sum(layer.params for layer in self.layers)

    def share(self, layer: LayerCost) -> float:
        """What part of the time of all layers is this one's."""
        return layer.seconds / (sum(each.seconds for each in self.layers) or 1.0)

    @property
    def slowest(self) -> tuple[LayerCost, ...]:
        """The layers, from the slowest to the fastest."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.seconds))

    @property
    def in_order(self) -> tuple[LayerCost, ...]:
        """The layers in the order of their calls, without what lies between them."""
        return tuple(layer for layer in self.layers if layer.name != REST)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        return {"macs": self.macs, "params": self.params, **asdict(self)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The layers that take most of the time, slowest first."""
        table = Table(title=f"costs by layer, {self._note()}", title_justify="left", caption_justify="left")
        table.add_column("layer", overflow="fold")
        for head in ("MACs", "params", "time", "of all"):
            table.add_column(head, justify="right", no_wrap=True)
        for layer in self.slowest[:20]:
            table.add_row(layer.name, numbers.count(layer.macs), numbers.count(layer.params),
                          numbers.duration(layer.seconds), f"{self.share(layer):.1%}")  # fmt: skip
        yield table

    def blocks(self) -> tuple[Block, ...]:
        """Charts and the table for the page."""
        macs = self.macs or 1
        rows = [
            Bar(layer.name, self.share(layer), f"{self.share(layer):.1%}", layer.macs / macs,
                f"{layer.name}, {layer.kind}: {numbers.duration(layer.seconds)}, {numbers.count(layer.macs)} MACs")
            for layer in self.slowest if self.share(layer) >= 0.001
        ]  # fmt: skip
        most = max((max(row.value, row.beside or 0) for row in rows), default=1.0)

        def draw(part: Sequence[Bar]) -> str:
            return bars(part, _spoken(part), key=("time", "multiply-accumulates"), most=most)

        found: list[Block] = charts(
            rows, draw, "Where the time goes",
            "Each layer's share of the time of all and of the arithmetic, slowest first.", _spoken,
        )  # fmt: skip
        if len(self.layers) > IN_CHART:
            spoken = "Time and multiply-accumulates of each layer, in the order in which they are called."
            found.append(
                ChartBlock(self._skyline("time"), spoken, spoken, "From input to output", more=(self._skyline("MACs"),))
            )
        return (*found, folded(self._table(), f"All {len(self.layers)} layers"))

    def _skyline(self, what: Literal["time", "MACs"]) -> str:
        values = [layer.seconds if what == "time" else float(layer.macs) for layer in self.in_order]
        tips = [
            f"{layer.name}: {numbers.duration(layer.seconds)}, {numbers.count(layer.macs)} MACs"
            for layer in self.in_order
        ]
        return skyline(values, tips, f"{what} by layer", words=("first layer", what, "last layer"), css=_CSS[what])

    def _table(self) -> TableBlock:
        columns = (
            Column("layer"), Column("kind"), Column("calls", numeric=True), Column("MACs", numeric=True),
            Column("parameters", numeric=True), Column("time", numeric=True), Column("quartiles", numeric=True),
            Column("of all", numeric=True),
        )  # fmt: skip
        macs, params = self.macs or 1, self.params or 1
        rows = [
            (layer.name, layer.kind, layer.calls,
             Cell(numbers.count(layer.macs), share=layer.macs / macs) if layer.macs else None,
             Cell(numbers.count(layer.params), share=layer.params / params) if layer.params else None,
             numbers.duration(layer.seconds),
             f"{numbers.duration(layer.lower_quartile)} to {numbers.duration(layer.upper_quartile)}",
             Cell(f"{self.share(layer):.1%}", share=self.share(layer)))
            for layer in self.layers
        ]  # fmt: skip
        return TableBlock(columns, rows, note=self._note())

    def _note(self) -> str:
        plain, watched = self.whole, self.watched
        return (
            f"Multiply-accumulates are for one sample. Times are medians of {plain.runs} passes of {self.batch} "
            f"sample{'s' if self.batch != 1 else ''}, {plain.threads} thread{'s' if plain.threads != 1 else ''}, taken "
            f"by hooks on every module, without the modules it calls. Hooks cost time too: a pass takes "
            f"{numbers.duration(watched.median)} with them and {numbers.duration(plain.median)} without, taking turns. "
            f"What they cost falls to {REST} most: additions, reshapes, functions of modules that call others."
        )


def layer_costs(model: nn.Module, example_inputs: Any, *, runs: int = 20, warmup: int = 3) -> Costs:
    """Count and time each layer.

    Args:
        model: any module; afterwards it is as it was before.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs. The first axis of the first
            tensor is the batch.
        runs: how many passes are timed, at least 2; as many again without hooks.
        warmup: how many passes of each kind go by untimed first.

    Raises:
        ConfigError: too few runs.
        CaptureError: the model does not run on the inputs.
    """
    check_runs(runs, warmup)
    model = stand_in(model)
    ((args, kwargs),) = Batches(example_inputs).on(device_of(model))
    with at_rest(model):
        run_once(model, args, kwargs, "example_inputs")
        *_, counted = count_flops_params(model, kwargs or args, verbose=False)
        spent, whole, watched = time_modules(model, lambda: model(*args, **kwargs), runs=runs, warmup=warmup)
    macs: dict[str, int] = {}
    for row in counted:
        macs[row["name"]] = macs.get(row["name"], 0) + row["flops"]
    modules, own, alone = dict(model.named_modules()), _own_parameters(model), leaves(model)
    rows, rest = [], []
    for name, time in spent.items():
        row = LayerCost(
            name or f"({type_name(model)})", type_name(modules[name]), time.calls, macs.get(name, 0), own.get(name, 0),
            time.median, time.lower_quartile, time.upper_quartile,
        )  # fmt: skip
        (rows if name in alone or row.macs or row.params else rest).append(row)
    rows += [
        LayerCost(name, type_name(modules[name]), 0, macs.get(name, 0), count, 0.0, 0.0, 0.0)
        for name, count in own.items() if name not in spent  # parameters of modules that this pass does not call
    ]  # fmt: skip
    if rest:
        times = [sum(getattr(row, key) for row in rest) for key in ("seconds", "lower_quartile", "upper_quartile")]
        rows.append(
            LayerCost(
                REST, f"{len(rest)} module{'s' if len(rest) != 1 else ''}", sum(row.calls for row in rest), 0, 0, *times
            )
        )
    return Costs(tuple(rows), whole, watched, _samples(args, kwargs))


def check_runs(runs: int, warmup: int) -> None:
    """See that there are runs enough for quartiles.

    Raises:
        ConfigError: there are not.
    """
    if runs < 2 or warmup < 0:
        raise ConfigError(f"runs is {runs} and warmup is {warmup}; quartiles need 2 runs or more, and warmup 0 or more")


def _own_parameters(model: nn.Module) -> dict[str, int]:
    """By module, how many values its own parameters have, those that no earlier module has."""
    seen: set[int] = set()
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found[name] = found.get(name, 0) + parameter.numel()
    return found


def _samples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The size of the first axis of the first tensor."""
    tensors = (leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim())
    first = next(tensors, None)
    return 1 if first is None else first.shape[0]


def _spoken(rows: Sequence[Bar]) -> str:
    return "; ".join(
        f"{row.name}: {row.value:.1%} of the time, {row.beside or 0:.1%} of the arithmetic" for row in rows
    )
