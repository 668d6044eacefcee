"""Bits for each layer: the assignment that is fastest where the model will live, of those that are accurate enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from torch import nn

from torchpare.errors import ConfigError, SearchError
from torchpare.runtimes import RUNTIMES
from torchpare.runtimes.asked import batches_of, check_model, listed
from torchpare.search.candidates import FLOAT, Candidates
from torchpare.search.fingerprint import of_code, of_example, of_model
from torchpare.search.frontier import MixedPrecision, Point
from torchpare.search.journal import Journal, digest
from torchpare.search.run import progress_bar

__all__ = ["MixedPrecisionSearch"]

_FRONTIER = 6
"""How many assignments between all low and the answer are timed beside them."""


@dataclass(frozen=True)
class _Work:
    """What the steps of one search have in their hands."""

    candidates: Candidates
    journal: Journal
    progress: Progress


class MixedPrecisionSearch:
    """Finds how many bits each layer needs, without training.

    Each layer is quantized by itself, to see what that costs in score. From the lowest bits everywhere, the layers that
    cost most are raised until the score is above the floor; those of them that need not have been are lowered again.
    Then the assignments on the way are timed as programs of the runtime, taking turns with the float model's, and the
    fastest that is above the floor is the answer. Where nothing beats float, the answer is float, and it says so.

    Sensitivity by layer and the greedy walk: Wu et al., "Integer Quantization for Deep Learning Inference: Principles
    and Empirical Evaluation", 2020, section 5.2 (partial quantization).

    Args:
        model: plain and trained. It stays as it is.
        dummy_input: an example input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        calibration: batches in that form, such as it will meet; kept and used for every candidate.
        evaluator: of a quantized model in PyTorch, what it is worth, such as its accuracy; larger is better. Without
            one, the signal-to-noise ratio of its first output on the calibration batches, in decibels.
        floor: the least score that will do.
        drop: in place of ``floor``: by how much the score may fall below the float model's.
        bits: what a layer may have: 1 to 16, or 32 for float.
        op_types: which layers; convolutions and linear layers if not given. Those that no batch goes through stay
            float.
        runtime: ``"onnxruntime"``, ``"openvino"`` or another of `torchpare.runtimes.RUNTIMES`.
        runs: how many timed runs a latency is the median of.
        folder: where the search's journal lies; its parent exists. None keeps none.
        resume: False begins anew, whatever is in the folder.

    Raises:
        ConfigError: an argument cannot be used.
        QuantizationError: there is no calibration batch, or the model does not run on one.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of its own
        self,
        model: nn.Module,
        dummy_input: Any,
        calibration: Iterable[Any],
        evaluator: Callable[[nn.Module], float] | None = None,
        *,
        floor: float | None = None,
        drop: float | None = None,
        bits: Sequence[int] = (8, FLOAT),
        op_types: Sequence[str] = ("Conv1d", "Conv2d", "Conv3d", "Linear"),
        runtime: str = "onnxruntime",
        runs: int = 30,
        folder: str | Path | None = None,
        resume: bool = True,
    ) -> None:
        if (floor is None) == (drop is None):
            raise ConfigError("MixedPrecisionSearch: give either floor, the least score that will do, or drop, by how "
                              "much it may fall")  # fmt: skip
        for name, limit in (("floor", floor), ("drop", drop)):
            if limit is not None and (
                not isinstance(limit, int | float) or isinstance(limit, bool) or math.isnan(limit)
            ):
                raise ConfigError(f"MixedPrecisionSearch: {name} is {limit!r}; it is a number")
        if drop is not None and evaluator is None:
            raise ConfigError("MixedPrecisionSearch: drop needs an evaluator: a float model has no noise to fall from")
        if not isinstance(runtime, str) or runtime not in RUNTIMES:
            raise ConfigError(f"MixedPrecisionSearch: runtime is {runtime!r}; it is one of "
                              f"{', '.join(map(repr, RUNTIMES))}")  # fmt: skip
        if evaluator is not None and not callable(evaluator):
            raise ConfigError(f"MixedPrecisionSearch: evaluator is {evaluator!r}; it is a function of a model")
        if not isinstance(runs, int) or runs < 2:
            raise ConfigError(f"MixedPrecisionSearch: runs is {runs!r}; a median needs at least 2")
        check_model(model)
        self.candidates = Candidates(
            model, dummy_input, list(batches_of(calibration)), evaluator, tuple(listed(bits, "bits", "(8, 32)")),
            tuple(listed(op_types, "op_types", "('Conv2d', 'Linear')")), runtime, runs,
        )  # fmt: skip
        self.floor, self.drop, self.evaluator = floor, drop, evaluator
        self.folder, self.resume = None if folder is None else Path(folder), resume

    def run(self) -> MixedPrecision:
        """Search, or go on with the search in the folder.

        Raises:
            SearchError: not even the float model is above the floor, or a score is not a number.
            FileError: the folder holds the journal of another search, or cannot be used.
            MissingExtraError: the runtime is not installed; nothing is scored then.
        """
        own = self.candidates
        header = {
            "search": type(self).__name__, "model": of_model(own.model), "evaluator": of_code(self.evaluator),
            "floor": self.floor, "drop": self.drop, "bits": list(own.bits), "layers": list(own.layers),
            "runtime": own.runtime, "runs": own.runs, "batches": len(own.calibration),
            "input": of_example(own.dummy_input),
        }  # fmt: skip
        journal = Journal(self.folder, header, resume=self.resume) if self.folder else _Unwritten()
        with progress_bar("mixed precision") as progress:
            progress.update(progress.task_ids[0], total=len(own.layers) * (len(own.bits) - 1) + 2 * _FRONTIER)
            return self._search(_Work(own, journal, progress))  # type: ignore[arg-type]

    def _search(self, work: _Work) -> MixedPrecision:
        own = work.candidates
        full, low = (dict.fromkeys(own.layers, bits) for bits in (max(own.bits), min(own.bits)))
        dense_bits = dict.fromkeys(own.layers, FLOAT)
        if work.journal.get(_score_key(dense_bits)) is None:
            own.check_runtime()
        dense = _score(work, dense_bits)
        floor = self.floor if self.floor is not None else dense - float(self.drop or 0.0)
        if _score(work, full) < floor:
            raise SearchError(
                f"the floor of {floor:.6g} cannot be met: with {max(own.bits)} bits everywhere the score is "
                f"{_score(work, full):.6g}. Allow more bits (32 is float), or ask for less"
            )
        raises = self._by_damage(work)
        enough = _least(lambda number: _score(work, _raised(low, raises[:number])) >= floor, len(raises))
        best = self._lowered(work, _raised(low, raises[:enough]), raises[:enough], floor)
        marks = {round(enough * at / (_FRONTIER - 1)) for at in range(_FRONTIER)} | {enough}
        walk = [_raised(low, raises[:number]) for number in sorted(marks)]
        even = [dict.fromkeys(own.layers, bits) for bits in own.bits]
        timed = {digest(assigned): assigned for assigned in (*walk, best, *even)}
        points = [self._point(work, assigned, floor) for assigned in timed.values()]
        alone = {layer: {bits: _score(work, own.alone(layer, bits)) for bits in own.lower} for layer in own.layers}
        return MixedPrecision(tuple(points), floor, dense, own.runtime, alone)

    def _by_damage(self, work: _Work) -> list[tuple[str, int]]:
        """Every step up that a layer can take, those first that mend most; of a layer, the lower step first."""
        own, steps = work.candidates, []
        for layer in own.layers:
            damage = math.inf
            for bits, higher in zip(own.bits, own.bits[1:], strict=False):
                # Never more than that of a lower step, or a layer would skip one.
                damage = min(damage, -_score(work, own.alone(layer, bits)))
                steps.append((-damage, layer, higher))
        order = sorted(range(len(steps)), key=lambda at: (steps[at][0], at))
        return [(steps[at][1], steps[at][2]) for at in order]

    def _lowered(
        self, work: _Work, assigned: dict[str, int], raises: Sequence[tuple[str, int]], floor: float
    ) -> dict[str, int]:
        """Take back what was raised and need not have been, the least sensitive first."""
        own = work.candidates
        for layer, _ in reversed(raises):
            lower = own.bits[own.bits.index(assigned[layer]) - 1]
            tried = {**assigned, layer: lower}
            if _score(work, tried) >= floor:
                assigned = tried
        return assigned

    def _point(self, work: _Work, assigned: Mapping[str, int], floor: float) -> Point:
        score = _score(work, assigned)
        ratio = _known(work, f"time {digest(assigned)}", "ratio", lambda: work.candidates.latency(assigned))
        return Point(dict(assigned), score, ratio, score >= floor)


class _Unwritten:
    """A journal of a search that keeps none."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        return self._lines.get(key)

    def write(self, key: str, **values: Any) -> None:
        self._lines[key] = values

    def number(self, key: str, name: str) -> float:
        return float(self._lines[key][name])


def _score(work: _Work, assigned: Mapping[str, int]) -> float:
    return _known(work, _score_key(assigned), "score", lambda: work.candidates.score(assigned))


def _score_key(assigned: Mapping[str, int]) -> str:
    return f"score {digest(assigned)}"


def _known(work: _Work, key: str, name: str, make: Callable[[], float]) -> float:
    """The number of a line of the journal, worked out and written if it is not there.

    Raises:
        FileError: the line holds none.
    """
    if work.journal.get(key) is None:
        work.journal.write(key, **{name: make()})
        work.progress.advance(work.progress.task_ids[0])
    number = work.journal.number(key, name)
    if math.isnan(number):
        raise work.journal.spoilt(f"under {key!r} there is no number {name!r}")
    return number


def _raised(assigned: Mapping[str, int], raises: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {**assigned, **dict(raises)}


def _least(holds: Callable[[int], bool], most: int) -> int:
    """The least number from 0 to ``most`` that holds, if those above it do too; ``most`` is known to."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
