"""What came of a model, and the file that holds a suite of them: docs/zoo/<suite>.json.

A result is written by the process that examined the model, stage by stage, so that one that was killed still tells how
far it came. The file of a suite appears whole or not at all, and a later run of some of its models replaces just those.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchpare.errors import FileError
from torchpare.files.atomic import atomic_write

__all__ = ["Reason", "Result", "Stage", "SuiteResults", "library_versions", "read_results", "write_results"]

Reason: TypeAlias = Literal[
    "build",  # the builder failed, or the dense model does not run
    "capture",  # the model could not be recorded
    "plan",  # it was recorded, and then not planned
    "nothing-pruned",  # the plan removes nothing
    "shrink",  # the plan could not be carried out
    "proof",  # the small model computes something else than the masked one
    "vacuous",  # masking moved no output: the proof shows nothing
    "forward",  # the small model does not run in float32, or its outputs are not finite or of other shapes
    "train",  # no step of training, or gradients that are not finite
    "reload",  # it could not be saved and loaded into a fresh model, or then differs
    "onnx",  # no ONNX file, or one that computes something else
    "timeout",  # the time limit was over
    "killed",  # the process ended without a word: mostly for memory
]

_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime", "onnxscript")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Stage(_Frozen):
    """One thing that was asked of a model.

    Attributes:
        name: as in `torchpare.zoo.stages`.
        seconds: what it took.
        reason: the code of what failed; None where nothing did.
        detail: what failed, or why that is not counted.
        excused: it failed, but so does the dense model.
    """

    name: str
    seconds: float
    reason: Reason | None = None
    detail: str = ""
    excused: bool = False


class Result(_Frozen):
    """What came of one model.

    Attributes:
        model: its name in the suite.
        done: whether the process came to its end; False in what a killed one left.
        parameters_before, parameters_after: numbers of parameters.
        groups: how many the plan names: channels, heads or widths that are one number.
        frozen: layers of which some channels can never go.
        largest_difference: between the small and the masked model, relative to the largest output, in `dtype`.
        tolerance: what was allowed.
        dtype: of the comparison.
        exact: whether nothing changes by nature.
        changes: kinds of places where the function changes by nature, and how many of each.
        output_change: how far masking moved the outputs, by the same measure.
        kept_back: the first of the frozen layers, each with the reason.
        unknown: operators without a rule, each with the first place where it was met.
        stages: in order.
    """

    model: str
    done: bool = False
    parameters_before: int | None = None
    parameters_after: int | None = None
    groups: int | None = None
    frozen: int | None = None
    largest_difference: float | None = None
    tolerance: float | None = None
    dtype: str = ""
    exact: bool | None = None
    changes: dict[str, int] = Field(default_factory=dict)
    output_change: float | None = None
    kept_back: tuple[str, ...] = ()
    unknown: dict[str, str] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    @property
    def misses(self) -> tuple[Stage, ...]:
        """The stages that failed and count."""
        return tuple(stage for stage in self.stages if stage.reason is not None and not stage.excused)

    @property
    def excused(self) -> tuple[Stage, ...]:
        """The stages in which the dense model fails as well."""
        return tuple(stage for stage in self.stages if stage.excused)

    @property
    def ok(self) -> bool:
        """Whether the model came through all stages; what the dense model cannot do either does not count."""
        return self.done and not self.misses

    @property
    def reason(self) -> Reason | None:
        """The code of the first miss."""
        return self.misses[0].reason if self.misses else None

    @property
    def kept(self) -> float | None:
        """The share of parameters that is left."""
        if self.parameters_after is None or not self.parameters_before:
            return None
        return self.parameters_after / self.parameters_before

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(stage.seconds for stage in self.stages)


class SuiteResults(_Frozen):
    """The results of one suite, in its order.

    Attributes:
        suite: its name.
        ratio: the share of every group that was to go.
        onnx: whether models were exported.
        versions: of the libraries that took part.
        results: one for each model.
    """

    suite: str
    ratio: float
    onnx: bool
    versions: dict[str, str]
    results: tuple[Result, ...]

    def merged(self, newer: SuiteResults, order: Iterable[str]) -> SuiteResults:
        """These results with those of a later run in their place, in the order given; models no longer in it go.

        Raises:
            FileError: the two runs did not do the same thing.
        """
        for what in ("suite", "ratio", "onnx", "versions"):
            here, there = getattr(self, what), getattr(newer, what)
            if here != there:
                raise FileError(
                    f"the file holds results with {what} {here}, and this run has {there}: write to another file, or "
                    "run the whole suite again (without --models and --chunk)"
                )
        by_name = {result.model: result for result in (*self.results, *newer.results)}
        return newer.model_copy(update={"results": tuple(by_name[name] for name in order if name in by_name)})


def library_versions() -> dict[str, str]:
    """The versions of the libraries that models and exports come from, as far as they are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_results(path: str | os.PathLike[str]) -> SuiteResults:
    """Reads a file of `write_results`.

    Raises:
        FileError: it is missing, or something else.
    """
    try:
        return SuiteResults.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}; write it with torchpare zoo --json") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise FileError(f"{path} holds no results of torchpare zoo: {place}: {first['msg']}") from error


def write_results(results: SuiteResults | Result, path: str | os.PathLike[str]) -> None:
    """Writes results as JSON; the file appears whole or not at all.

    Raises:
        FileError: `path` cannot be written.
    """
    with atomic_write(path) as lent:
        lent.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
