"""What the model is still worth when one layer alone is pruned, as a value: the heat map and its table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import nn

from torchpare.errors import ConfigError
from torchpare.insight.laid_out import charts, finite, folded
from torchpare.report import Block, Cell, Column, TableBlock
from torchpare.report.heat import damage, heat_map, write_heat_map
from torchpare.search import SensitivityAnalysis
from torchpare.search.executors import Executors
from torchpare.search.sensitivity import write_sensitivity

__all__ = ["Sensitivity", "sensitivity"]


@dataclass(frozen=True)
class Sensitivity:
    """By layer and sparsity, what the model is worth with that layer alone pruned."""

    rows: Mapping[str, Mapping[float, float]]
    """What was not tried is missing."""
    dense: float
    """Of the model with nothing pruned."""
    criterion: str
    """What goes within a layer, such as ``"l1"``."""
    more_is_better: bool = True

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Those that were tried of any layer."""
        return tuple(sorted({sparsity for row in self.rows.values() for sparsity in row}))

    @property
    def most_sensitive(self) -> tuple[str, ...]:
        """Layers, those first whose pruning hurts the most at the mildest sparsity that parts them."""
        hurt = damage(self.rows, self.dense, more_is_better=self.more_is_better)
        # A row that ended early did so because the model was hurt too much: what was not tried counts as the worst.
        worst = max((value for row in hurt.values() for value in row.values()), default=0.0)
        mean = {name: sum(row.get(each, worst) for each in self.sparsities) for name, row in hurt.items()}
        return tuple(sorted(mean, key=lambda name: -mean[name]))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        rows = {
            name: {str(sparsity): finite(value) for sparsity, value in row.items()} for name, row in self.rows.items()
        }
        return {
            "dense": finite(self.dense),
            "criterion": self.criterion,
            "more_is_better": self.more_is_better,
            "rows": rows,
        }

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the values to a CSV file, a row a layer, as :class:`SensitivityAnalysis` does.

        Raises:
            FileError: it cannot be written.
        """
        write_sensitivity(path, self.rows, self.sparsities)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the heat map into an ``.svg`` or ``.png`` file.

        Raises:
            ConfigError: the ending is another one.
            MissingExtraError: for ``.png``, matplotlib is not installed.
            FileError: the file cannot be written.
        """
        write_heat_map(self.rows, path, dense=self.dense, more_is_better=self.more_is_better)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A line a layer, the most sensitive first."""
        table = Table(
            title=f"value with one layer pruned by {self.criterion}; dense {self.dense:.4g}", title_justify="left"
        )
        table.add_column("layer", overflow="fold")
        for sparsity in self.sparsities:
            table.add_column(f"{sparsity:.0%}", justify="right")
        for name in self.most_sensitive[:30]:
            row = self.rows[name]
            table.add_row(name, *(f"{row[each]:.4g}" if each in row else "" for each in self.sparsities))
        yield table

    def blocks(self) -> tuple[Block, ...]:
        """The heat map and its table for the page."""
        hurt = damage(self.rows, self.dense, more_is_better=self.more_is_better)
        most = max((value for row in hurt.values() for value in row.values()), default=0.0) or 1.0

        def draw(part: Sequence[str]) -> str:
            rows = {name: self.rows[name] for name in part}
            return heat_map(rows, self._spoken(part), dense=self.dense, more_is_better=self.more_is_better, most=most)

        found = charts(
            self.most_sensitive, draw, "What is lost when one layer alone is pruned",
            "Sparsity in per cent from left to right; the stronger the colour, the more. Most sensitive layers first.",
            self._spoken,
        )  # fmt: skip
        columns = [Column("layer"), *(Column(f"{each:.0%}", numeric=True) for each in self.sparsities)]
        rows = [
            (name, *(Cell(f"{row[each]:.4g}", share=hurt[name][each] / most) if each in row else None
                     for each in self.sparsities))
            for name, row in self.rows.items()
        ]  # fmt: skip
        note = f"The dense model is worth {self.dense:.4g}; {self.criterion} says what goes. Bars: what is lost."
        return (*found, folded(TableBlock(columns, rows, note=note), f"All {len(rows)} layers")) if self.rows else ()

    def _spoken(self, names: Sequence[str]) -> str:
        said = (f"{name}: " + ", ".join(f"{value:.4g} at {share:.0%}" for share, value in self.rows[name].items())
                for name in names)  # fmt: skip
        return f"{self.dense:.4g} with nothing pruned; " + "; ".join(said)


def sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], Any],
    sparsities: Sequence[float] | None = None,
    *,
    criterion: Literal["level", "l1", "l2", "fpgm", "random"] = "l1",
    more_is_better: bool = True,
    largest_drop: float | None = None,
    layers: Sequence[str] | None = None,
    executor: Executors = "serial",
) -> Sensitivity:
    """Prune one layer at a time, further and further, and evaluate.

    Args:
        model: any module; copies of it are pruned.
        evaluate: what a model is worth, such as its accuracy. It is called once, and once for each layer and sparsity.
        sparsities: which to try; 0.1 to 0.9 if not given.
        criterion: what goes within a layer.
        more_is_better: whether a larger value is a better one.
        largest_drop: no larger sparsities of a layer are tried once the model is worse by more than this.
        layers: which; all that the criterion can prune if not given.
        executor: who evaluates; see :class:`~torchpare.search.SensitivityAnalysis`.

    Raises:
        ConfigError: an argument cannot be used.
    """
    if largest_drop is not None and not largest_drop >= 0:
        raise ConfigError(f"largest_drop is {largest_drop}; it is 0 or more, or None to try all sparsities")
    analysis = SensitivityAnalysis(model, evaluate, sparsities, criterion, executor=executor)
    dense = analysis.dense_value()
    if largest_drop is not None:
        mode, bound = ("minimize", dense - largest_drop) if more_is_better else ("maximize", dense + largest_drop)
        analysis = SensitivityAnalysis(model, evaluate, sparsities, criterion, mode, bound, executor=executor)
    rows = analysis.analysis(specified_layers=layers)
    return Sensitivity({name: dict(row) for name, row in rows.items()}, dense, criterion, more_is_better)
