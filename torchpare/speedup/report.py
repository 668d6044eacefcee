"""What a shrink did, and the proof that it did nothing else: an immutable value that prints itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from torchpare.graph import Restored

__all__ = ["FunctionChange", "LayerChange", "SpeedupReport"]


@dataclass(frozen=True)
class FunctionChange:
    """A place where removing channels changes the function by nature, and cannot be made exact."""

    kind: str
    module: str
    channels: int
    detail: str

    def __str__(self) -> str:
        place = f"module '{self.module}'" if self.module else "the model's own forward"
        return f"{self.kind} in {place} ({self.channels} channels): {self.detail}"


@dataclass(frozen=True)
class LayerChange:
    """One layer that makes or reads channels, before and after."""

    name: str
    kind: str
    channels_before: int
    channels_after: int
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class SpeedupReport:
    """The result of `ModelSpeedup.speedup_model`.

    Attributes:
        largest_difference: between the outputs of the small and the masked model on the dummy input, relative to the
            largest output.
        tolerance: what was allowed.
        dtype: the floating type of the comparison, ``float64`` wherever the model can be run in it.
        exact: whether the small model is the masked model's function. False where `changes` names a place that
            changes by nature; then `largest_difference` is measured against the model whose removed channels contribute
            nothing, except where a norm or mean runs over the pruned axis itself.
        masked_difference: the same measure against the model with just the masks that were given. Equal to
            `largest_difference` where `exact`.
        output_change: how far masking moved the outputs of the dense model, by the same measure. Zero would mean that
            this proof proves nothing.
        changes: places where the function changes by nature.
        folded: layers whose bias took over constants of removed channels.
        rescaled: modules whose weights make up for what was lost: RMS norms (their epsilons too), and what makes the
            queries of attentions whose scale is a power of the width of a head.
        restored: channels that were asked for and stay, and why.
        unknown: operators without a rule, with the first place where each was met; their channels stay.
        unreached: parameters that the dummy input did not reach; they keep their size.
        layers: every layer that makes channels.
        parameters_before, parameters_after: numbers of parameters.
        seconds: by phase.
        without: whole blocks, and experts behind a router, that were taken out first. What is compared is the model
            whose blocks hand their input on, and whose router never chooses these experts.
    """

    largest_difference: float
    tolerance: float
    dtype: str
    exact: bool
    masked_difference: float
    output_change: float
    changes: tuple[FunctionChange, ...]
    folded: tuple[str, ...]
    rescaled: tuple[str, ...]
    restored: tuple[Restored, ...]
    unknown: dict[str, str]
    unreached: tuple[str, ...]
    layers: tuple[LayerChange, ...]
    parameters_before: int
    parameters_after: int
    seconds: dict[str, float]
    without: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able data; figures that were not measured are None."""
        return {key: None if _missing(value) else value for key, value in asdict(self).items()}

    @property
    def frozen(self) -> list[str]:
        """One line for everything that was asked for and stays."""
        return [f"{', '.join(item.layers)}: {item.channels} channels stay ({item.why})" for item in self.restored]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        before, after = self.parameters_before, self.parameters_after
        yield f"{before:,} -> {after:,} parameters ({before / max(after, 1):.2f}x fewer)"
        if _missing(self.largest_difference):
            yield "not compared with the masked model (verify=False)"
            yield from self._remarks()
            return
        verdict = "the same function as" if self.exact else "by nature not the same function as"
        yield (
            f"{verdict} the masked model: largest difference {self.largest_difference:.2g} of the output's range "
            f"in {self.dtype} (tolerance {self.tolerance:.0e})"
        )
        if not self.exact:
            yield f"against the masks exactly as given: {self.masked_difference:.2g}"
        yield from self._remarks()

    def _remarks(self) -> Iterator[str]:
        if self.without:
            yield f"without {', '.join(self.without)}: the same as with these bypassed, or never chosen by their router"
        if self.output_change == 0 and not self.without:
            yield "masking moved no output on the dummy input, so that the comparison shows little: try another one"
        for change in self.changes:
            yield f"changed by nature: {change}"
        if self.folded:
            yield f"constants moved into the bias of: {', '.join(self.folded)}"
        if self.rescaled:
            names = ", ".join(name or "the model" for name in self.rescaled[:3])
            more = f" and {len(self.rescaled) - 3} more" if len(self.rescaled) > 3 else ""
            yield f"weights rescaled to stay the same function: {names}{more}"
        for line in self.frozen:
            yield f"kept: {line}"
        for name, place in self.unknown.items():
            yield f"no rule for {name}, first met in {place}: the channels through it stay"
        if self.unreached:
            yield f"not reached by the dummy input, so not shrunk: {', '.join(self.unreached)}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title="Channels before and after")
        for column in ("layer", "kind"):
            table.add_column(column)
        for column in ("channels", "kept", "parameters", "kept parameters"):
            table.add_column(column, justify="right")
        for layer in self.layers:
            table.add_row(
                layer.name,
                layer.kind,
                f"{layer.channels_before}",
                f"{layer.channels_after}",
                f"{layer.parameters_before:,}",
                f"{layer.parameters_after:,}",
            )
        yield table
        yield from self._lines()


def _missing(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
