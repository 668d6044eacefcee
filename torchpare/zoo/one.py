"""One model, in this process: pruned by half, shrunk, compared, used.

    python -m torchpare.zoo.one torchpare.zoo.torchvision_suite resnet18 --ratio 0.5 --result FILE

The file grows with each stage, so that whoever kills this process still learns how far it came. Without `--result` the
result is printed; what went wrong is told on the error stream with its traceback.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from torchpare import plan
from torchpare.errors import CaptureError, ProofError
from torchpare.zoo import stages
from torchpare.zoo.results import Reason, Result, Stage, write_results
from torchpare.zoo.suites import Case, case

__all__ = ["examine"]

_MOVED = 1e-4  # of an output's range: what masking must change at least; float32 alone changes some 1e-7
_LINES = 20  # of what was kept back, at most: a file of a thousand models is read by people


class _OverError(Exception):
    """A stage failed that all later ones need."""


def examine(case: Case, ratio: float, *, onnx: bool, keep: Callable[[Result], None] = lambda _: None) -> Result:
    """Prunes, shrinks and tries out one model.

    Args:
        case: the model.
        ratio: the share of every group of channels that is to go.
        onnx: whether to export it as well.
        keep: is given the result after each stage.
    """
    examination = _Examination(case, keep)
    with suppress(_OverError):
        examination.shrink(ratio)
        examination.use(onnx=onnx)
    examination.note(done=True)
    return examination.result


class _Examination:
    """A model on its way through the stages, and what is known of it so far."""

    def __init__(self, case: Case, keep: Callable[[Result], None]) -> None:
        self.case, self.keep = case, keep
        self.result = Result(model=case.name)
        self.model: nn.Module = nn.Identity()
        self.inputs: Any = None
        self.shapes: dict[str, tuple[int, ...]] = {}

    def note(self, **facts: Any) -> None:
        self.result = self.result.model_copy(update=facts)
        self.keep(self.result)

    def shrink(self, ratio: float) -> None:
        """From the builder to the small model; whatever fails here ends the examination."""
        with self._stage("build", "build"):
            self.model, self.inputs = self.case.build()
            self.shapes = stages.healthy_shapes(self.model, self.inputs)
        self.note(parameters_before=_size(self.model))
        with self._stage("plan", "plan"):
            planned = plan(self.model, [{"sparsity": ratio, "structures": ["all"]}], self.inputs)
        frozen = planned.frozen
        self.note(
            groups=len(planned.groups),
            unknown=dict(planned.space.unknown),
            frozen=len(frozen),
            kept_back=tuple(f"{layer}: {why}" for layer, why in frozen.items())[:_LINES],
        )
        with self._stage("shrink", "shrink"):
            report = planned.apply()
        self.model.eval()
        self.note(
            parameters_after=_size(self.model),
            largest_difference=report.largest_difference,
            tolerance=report.tolerance,
            dtype=report.dtype,
            exact=report.exact,
            changes=dict(Counter(change.kind for change in report.changes)),
            output_change=report.output_change,
        )
        if _size(self.model) == self.result.parameters_before:
            with self._stage("removal", "nothing-pruned"):
                raise stages.MissError("; ".join(self.result.kept_back[:3]) or "no group may lose anything")

    def use(self, *, onnx: bool) -> None:
        """What a user does with the small model; each on its own."""
        model, inputs, case = self.model, self.inputs, self.case
        with suppress(_OverError), self._stage("masking", "vacuous"):
            if not (self.result.output_change or 0) > _MOVED:
                raise stages.MissError(
                    f"masking moved the outputs by {self.result.output_change or 0:.1g} of their range, so that the "
                    "comparison shows nothing"
                )
        with suppress(_OverError), self._stage("forward", "forward"):
            stages.check_forward(model, inputs, self.shapes, varying=case.varying)
        with suppress(_OverError), self._stage("reload", "reload"):
            stages.check_reload(case, model, inputs)
        if onnx:
            self._unless_dense_fails("onnx", "onnx", lambda net: stages.check_onnx_export(net, inputs))
        samples = case.training_inputs(inputs)
        trains = self._unless_dense_fails("train", "train", lambda net: stages.check_training(net.train(), samples))
        if not trains:  # neither model trains in training mode, or not on this input
            self._unless_dense_fails(
                "train in evaluation mode", "train", lambda net: stages.check_training(net.eval(), samples)
            )

    def _unless_dense_fails(self, name: str, reason: Reason, check: Callable[[nn.Module], None]) -> bool:
        """Holds the small model to a check if the dense one passes it; returns whether it passed, or ought to."""
        excused = False
        with suppress(_OverError), self._stage(name, reason) as excuse:
            try:
                check(self.model)
            except Exception:
                dense, _ = self.case.build()
                try:
                    check(dense)
                except Exception:  # noqa: BLE001 - whatever the model, the exporter or the runtime raise
                    excused = True
                    excuse()
                raise
        return not excused

    @contextmanager
    def _stage(self, name: str, reason: Reason) -> Iterator[Callable[[], None]]:
        """Times a stage and records how it ended.

        Lends a function that says that the dense model fails as well.

        Raises:
            _OverError: it failed.
        """
        start, excuses = time.perf_counter(), []
        failure: BaseException | None = None
        try:
            yield lambda: excuses.append(name)
        except Exception as error:  # noqa: BLE001 - whatever the model's own code raises
            failure = error
        stage = Stage(name=name, seconds=round(time.perf_counter() - start, 3))
        if failure is not None:
            told = f"{name}: dense fails too: " if excuses else ""
            stage = stage.model_copy(
                update={"reason": _reason(failure, reason), "detail": told + _told(failure), "excused": bool(excuses)}
            )
            traceback.print_exception(failure, file=sys.stderr)
        self.note(stages=(*self.result.stages, stage))
        if failure is not None:
            raise _OverError from failure


def _reason(error: BaseException, otherwise: Reason) -> Reason:
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "killed"
    if isinstance(error, CaptureError):
        return "capture"
    return "proof" if isinstance(error, ProofError) else otherwise


def _told(error: BaseException) -> str:
    """One line: what was raised, and where if it was not raised on purpose."""
    line = " ".join(str(error).split())[:400]
    if isinstance(error, stages.MissError):
        return line
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {line}{place}"


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m torchpare.zoo.one", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", help="the module of the suite")
    parser.add_argument("name", help="the model")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--no-onnx", action="store_true")
    parser.add_argument("--result", type=Path)
    asked = parser.parse_args()
    _quieten()

    def keep(result: Result) -> None:
        if asked.result:
            write_results(result, asked.result)

    result = examine(case(asked.module, asked.name), asked.ratio, onnx=not asked.no_onnx, keep=keep)
    if not asked.result:
        sys.stdout.write(result.model_dump_json() + "\n")
    sys.exit(0 if result.ok else 1)


def _quieten() -> None:
    """Errors alone on the error stream; and if memory runs out on the machine, this process is the one to go."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    with suppress(OSError):
        Path(f"/proc/{os.getpid()}/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    _main()
