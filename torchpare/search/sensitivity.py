"""How much each layer can lose by itself, and a pruner that gives every layer its share by that."""

from __future__ import annotations

import copy
import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from torchpare.attach import masks_of
from torchpare.errors import ConfigError, FileError
from torchpare.files.atomic import atomic_write
from torchpare.pruning.ranked import CRITERIA
from torchpare.report.heat import write_heat_map
from torchpare.search.arguments import WithModel, number
from torchpare.search.executor import Serial
from torchpare.search.executors import Executors, executor_of
from torchpare.search.trial import Bench, Job

__all__ = ["RATIOS", "SensitivityAnalysis", "read_sensitivity", "write_sensitivity"]

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

EarlyStop = Literal["minimize", "maximize", "dropped", "raised"]


class SensitivityAnalysis:
    """Prunes one layer at a time, further and further, and looks what the model is still worth.

    Args:
        model: any module; it is only read: copies are pruned.
        val_func: ``val_func(model, *val_args, **val_kwargs) -> float``, or with the model among ``val_args``.
        sparsities: which to try, in (0, 1); 0.1 to 0.9 if not given.
        prune_type: what goes within a layer: ``"level"``, ``"l1"``, ``"l2"``, ``"fpgm"`` or ``"random"``.
        early_stop_mode: when to try no larger sparsities of a layer: ``"minimize"`` where the value is below
            ``early_stop_value``, ``"maximize"`` where it is above, ``"dropped"`` or ``"raised"`` where it is further
            than that below or above the value of the dense model.
        early_stop_value: see there.
        executor: who runs the evaluations: ``"serial"``, this process, one after the other; ``"processes"``, ``"ray"``
            or an :class:`~torchpare.search.Executor`: several at a time, where ``val_func`` can be imported. The values
            are the same whoever finds them, as far as ``val_func`` returns the same for the same model.

    Raises:
        ConfigError: an argument cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        val_func: Callable[..., Any],
        sparsities: Sequence[float] | None = None,
        prune_type: str = "l1",
        early_stop_mode: EarlyStop | None = None,
        early_stop_value: float | None = None,
        *,
        executor: Executors = "serial",
    ) -> None:
        if prune_type not in ("level", "l1", "l2", "fpgm", "random"):
            raise ConfigError(f"SensitivityAnalysis: prune_type is {prune_type!r}; it is one of 'level', 'l1', 'l2', "
                              "'fpgm', 'random'")  # fmt: skip
        if early_stop_mode not in (None, "minimize", "maximize", "dropped", "raised"):
            raise ConfigError(f"SensitivityAnalysis: early_stop_mode is {early_stop_mode!r}; it is one of 'minimize', "
                              "'maximize', 'dropped', 'raised'")  # fmt: skip
        if (early_stop_mode is None) != (early_stop_value is None):
            raise ConfigError("SensitivityAnalysis: early_stop_mode and early_stop_value belong together: give both")
        if not callable(val_func):
            raise ConfigError(f"SensitivityAnalysis: val_func is a {type(val_func).__name__}; it is a function of the "
                              "model")  # fmt: skip
        try:
            self.sparsities = sorted(round(float(s), 2) for s in (RATIOS if sparsities is None else sparsities))
        except (TypeError, ValueError):
            self.sparsities = []
        if not self.sparsities or not all(0 < s < 1 for s in self.sparsities):
            raise ConfigError(f"SensitivityAnalysis: sparsities are {sparsities}; give a list of numbers, all "
                              "between 0 and 1, also when rounded to two digits")  # fmt: skip
        self.model, self.val_func = model, val_func
        self.executor = executor_of(executor)
        self.prune_type = prune_type
        self.early_stop_mode, self.early_stop_value = early_stop_mode, early_stop_value
        kind = CRITERIA[prune_type]
        handled = kind.default or kind.supported
        self.target_layer = {n: m for n, m in model.named_modules() if n and type(m) in handled}
        self.already_pruned: dict[str, float] = dict.fromkeys(self.target_layer, 0.0)
        self.sensitivities: dict[str, dict[float, float]] = {}

    @property
    def layers_count(self) -> int:
        """How many layers can be analysed."""
        return len(self.target_layer)

    def analysis(
        self,
        val_args: Sequence[Any] | None = None,
        val_kwargs: Mapping[str, Any] | None = None,
        specified_layers: Sequence[str] | None = None,
    ) -> dict[str, dict[float, float]]:
        """Analyse layers; each starts from the model as it is.

        Args:
            val_args: for ``val_func``. The model may be among them; then a pruned copy takes its place, otherwise the
                copy comes first.
            val_kwargs: for ``val_func``, in the same way.
            specified_layers: which; all if not given.

        Returns:
            by layer, by sparsity, the value. A layer's row ends where it was stopped early.

        Raises:
            ConfigError: there is no such layer, or ``val_func`` returned no number.
            SearchError: an executor is used, and an evaluation failed there.
        """
        names = list(self.target_layer if specified_layers is None else specified_layers)
        for name in names:
            if name not in self.target_layer:
                raise ConfigError(f"SensitivityAnalysis: {name!r} is no layer that {self.prune_type!r} can prune; "
                                  f"those are {', '.join(self.target_layer)}")  # fmt: skip
        compares = self.early_stop_mode in ("dropped", "raised")
        dense = self.dense_value(val_args, val_kwargs) if compares else 0.0
        if not isinstance(self.executor, Serial):
            self._analyse_together(names, dense, WithModel(self.val_func, self.model, val_args, val_kwargs))
            return self.sensitivities
        for name in names:
            row: dict[float, float] = {}
            for sparsity in self.sparsities:
                row[sparsity] = self._value(self._pruned(name, sparsity), val_args, val_kwargs)
                if self._stops(row[sparsity], dense):
                    break
            self.sensitivities[name] = row
        return self.sensitivities

    def dense_value(self, val_args: Sequence[Any] | None = None, val_kwargs: Mapping[str, Any] | None = None) -> float:
        """The value of the model as it is, of a copy."""
        return self._value(copy.deepcopy(self.model), val_args, val_kwargs)

    def export(self, filepath: str | os.PathLike[str]) -> None:
        """Write the values to a CSV file, a row a layer.

        Raises:
            FileError: it cannot be written.
        """
        write_sensitivity(filepath, self.sensitivities, self.sparsities)

    def plot(self, path: str | os.PathLike[str], *, dense: float | None = None, more_is_better: bool = True) -> None:
        """Draw the values as a heat map, a row a layer, into an ``.svg`` or ``.png`` file.

        Args:
            path: of the file; its ending says the format.
            dense: the value of the model with nothing gone; the best of all values if not given.
            more_is_better: whether a larger value is a better one.

        Raises:
            ConfigError: nothing was analysed yet, or the ending is another one.
            MissingExtraError: for ``.png``, matplotlib is not installed.
            FileError: the file cannot be written.
        """
        write_heat_map(self.sensitivities, path, dense=dense, more_is_better=more_is_better)

    def update_already_pruned(self, layername: str, ratio: float) -> None:
        """Say that a layer has lost a share already: sparsities are then shares of what is left."""
        self.already_pruned[layername] = ratio

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load weights into the model."""
        self.model.load_state_dict(state_dict)

    def _analyse_together(self, names: Sequence[str], dense: float, evaluator: WithModel) -> None:
        """Several evaluations at a time: all of them, or sparsity by sparsity where rows may end early."""
        whole = self.prune_type != "level"  # filters take their groups along; single weights do not
        bench = Bench(self.model, evaluator, None, None, structured=whole, keep_state=False)
        rows: dict[str, dict[float, float]] = {name: {} for name in names}
        alive = set(rows)
        steps = [self.sparsities] if self.early_stop_mode is None else [[sparsity] for sparsity in self.sparsities]
        try:
            for step in steps:
                cells = {f"{name}@{sparsity}": (name, sparsity) for name in names if name in alive for sparsity in step}
                jobs = [
                    Job(key, f"{name} at {sparsity:.0%}", masks_of(self._pruned(name, sparsity)), 0)
                    for key, (name, sparsity) in cells.items()
                ]
                for outcome in self.executor.run(bench, jobs) if jobs else ():
                    name, sparsity = cells[outcome.key]
                    rows[name][sparsity] = outcome.score
                    if self._stops(outcome.score, dense):
                        alive.discard(name)
        finally:
            self.executor.close()
        self.sensitivities.update({name: dict(sorted(row.items())) for name, row in rows.items()})

    def _pruned(self, name: str, sparsity: float) -> nn.Module:
        already = self.already_pruned[name]
        total = already + (1 - already) * sparsity
        copied = copy.deepcopy(self.model)
        CRITERIA[self.prune_type](copied, [{"sparsity": min(total, 0.999), "op_names": [name]}]).compress()
        return copied

    def _value(self, model: nn.Module, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> float:
        return number("SensitivityAnalysis", WithModel(self.val_func, self.model, args, kwargs)(model))

    def _stops(self, value: float, dense: float) -> bool:
        bound = self.early_stop_value
        if bound is None:
            return False
        return {
            "minimize": value < bound,
            "maximize": value > bound,
            "dropped": value < dense - bound,
            "raised": value > dense + bound,
        }[str(self.early_stop_mode)]


def write_sensitivity(
    path: str | os.PathLike[str], rows: Mapping[str, Mapping[float, float]], ratios: Sequence[float]
) -> None:
    """Write values by layer and ratio to a CSV file; what was not tried is left empty."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["layername", *ratios])
    for name, row in rows.items():
        writer.writerow([name, *(row.get(ratio, "") for ratio in ratios)])
    with atomic_write(path) as lent:
        lent.write_text(table.getvalue(), encoding="utf-8")


def read_sensitivity(path: str | os.PathLike[str]) -> dict[str, dict[float, float]]:
    """Read what `write_sensitivity` wrote.

    Raises:
        FileError: the file is missing, or no such table.
    """
    try:
        rows = list(csv.reader(Path(path).read_text(encoding="utf-8").splitlines()))
        ratios = [float(ratio) for ratio in rows[0][1:]]
        return {
            row[0]: {ratio: float(value) for ratio, value in zip(ratios, row[1:], strict=False) if value != ""}
            for row in rows[1:]
            if row
        }
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise FileError(f"{os.fspath(path)} is no table of sensitivities: {error}") from error
