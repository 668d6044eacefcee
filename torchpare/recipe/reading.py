"""What came of a run, read from its folder again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchpare.errors import FileError
from torchpare.recipe.budget import Verdict
from torchpare.recipe.result import Result, StageResult

__all__ = ["read_result", "read_stage"]


def read_stage(path: Path) -> StageResult:
    """What :meth:`StageResult.write` wrote, without its verdicts: these are given anew.

    Raises:
        FileError: it is something else.
    """
    try:
        return replace(_stage_of(json.loads(path.read_text(encoding="utf-8"))), verdicts=())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: is not what a stage writes ({type(error).__name__}: {error}); delete {path.parent} "
                        "to run the stage anew") from error  # fmt: skip


def read_result(folder: Path) -> Result:
    """A run as it was left in its folder; its model is not loaded.

    Raises:
        FileError: there is none, or it is spoilt.
    """
    path = folder / "result.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(_stage_of(stage) for stage in said["stages"])
        if not stages:
            raise ValueError("it has no stages")  # noqa: TRY301 - told below with all else
        return Result(str(said["name"]), folder, stages, int(said["planned"]), None, dict(said["environment"]),
                      dict(said["recipe"]), Path(said["beside"]) if said.get("beside") else None)  # fmt: skip
    except OSError as error:
        raise FileError(
            f"{folder}: there is no run here ({error.strerror}); give the folder of 'torchpare run'"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path}: is not what a run writes ({type(error).__name__}: {error}); run the recipe again"
        ) from error


def _stage_of(said: Mapping[str, Any]) -> StageResult:
    return StageResult(
        number=int(said["number"]), name=str(said["name"]), kind=str(said["kind"]), seconds=float(said["seconds"]),
        metrics=_numbers(said["metrics"]), dense=_numbers(said["dense"]), details=dict(said["details"]),
        failure=str(said["failure"]), fingerprint=str(said["fingerprint"]),
        verdicts=tuple(_verdict_of(verdict) for verdict in said.get("verdicts", ())),
    )  # fmt: skip


def _verdict_of(said: Mapping[str, Any]) -> Verdict:
    known = {name: math.nan if said[name] is None else said[name] for name in ("value", "limit")}
    return Verdict.model_validate({**said, **known})


def _numbers(said: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): math.nan if value is None else float(value) for name, value in said.items()}
