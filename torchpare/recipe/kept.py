"""What runs keep in their folders: what stages are called, by what they are known again, and what is deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchpare.errors import FileError
from torchpare.files.atomic import atomic_write
from torchpare.recipe.code import of_use
from torchpare.recipe.named import found
from torchpare.recipe.reading import read_stage
from torchpare.recipe.result import StageResult
from torchpare.recipe.schema import Recipe
from torchpare.search.journal import digest

__all__ = ["STAGE", "fingerprints", "known_stage", "make_room", "renamed", "stage_names"]

STAGE, STARTED = "stage.json", "started.json"


def stage_names(recipe: Recipe) -> list[str]:
    """What every stage is called: by its own name, or by its kind, numbered where one comes again. All differ."""
    taken = {"dense", *(item.stage.name for item in recipe.stages)}
    names: list[str] = []
    for item in recipe.stages:
        name, count = item.stage.name or item.kind, 1
        while item.stage.name is None and name in taken:
            count += 1
            name = f"{item.kind}-{count}"
        taken.add(name)
        names.append(name)
    return names


def fingerprints(recipe: Recipe, beginning: str) -> list[str]:
    """A name for each stage with all that goes before it; budgets may change without anything being run anew.

    Args:
        recipe: the stages.
        beginning: what `gather` says of all that they share.

    Raises:
        ConfigError: what a stage names cannot be found.
    """
    marks = [digest("dense", beginning)]
    for item in recipe.stages:
        words = item.stage.model_dump(mode="json", exclude={"budget", "name"})
        marks.append(digest(marks[-1], item.kind, words, [of_use(found(path)) for path in _named(words)]))
    return marks


def known_stage(folder: Path, number: int, name: str, mark: str) -> StageResult | None:
    """What a stage came to in an earlier run, perhaps under another name, if it is done and the same; no verdicts.

    Raises:
        FileError: what is there is spoilt.
    """
    own = folder / f"{number:02}-{name}" / STAGE
    others = (path for path in sorted(folder.glob(f"{number:02}-*/{STAGE}")) if path != own)
    for path in (own, *others):
        if path.exists() and (said := read_stage(path)).fingerprint == mark:
            return replace(said, name=path.parent.name[3:])  # a kill may have come between a new name and its file
    return None


def renamed(folder: Path, known: StageResult, name: str) -> StageResult:
    """A stage under the name that its recipe gives it by now, its folder too.

    Raises:
        FileError: something that is no stage of a run lies there.
    """
    if known.name == name:
        return known
    new = replace(known, name=name)
    target = folder / new.folder
    if (target / STARTED).exists():
        _delete(target)  # of another run
    if target.exists():
        raise FileError(f"{target} is no stage of a run, and is in the way of stage {known.number} ({name}): move it")
    (folder / known.folder).rename(target)
    new.write(target / STAGE)
    return new


def make_room(folder: Path, number: int, name: str, mark: str, *, resume: bool) -> None:
    """Make a stage's folder, and delete what other runs left there and after it. Of this run's own, all stays.

    Args:
        folder: of the run.
        number: of the stage.
        name: of the stage.
        mark: by which it is known.
        resume: False deletes what this run itself left, too.
    """
    own = folder / f"{number:02}-{name}"
    if resume and _begun_by(own) == mark and not (own / STAGE).exists():
        return
    for old in sorted(folder.glob("[0-9][0-9]-*")):
        if int(old.name[:2]) >= number and (old / STARTED).exists():
            _delete(old)
    own.mkdir(exist_ok=True)
    with atomic_write(own / STARTED) as lent:
        lent.write_text(json.dumps({"fingerprint": mark}) + "\n", encoding="utf-8")


def _delete(stage: Path) -> None:
    """Delete a stage so that a kill in between leaves one that is not done, and that is known to be of a run.

    Two names go one after the other: first what says that it is done, and last what says that it was begun.
    """
    (stage / STAGE).unlink(missing_ok=True)
    with atomic_write(stage / STARTED) as lent:
        lent.write_text("{}\n", encoding="utf-8")  # of no run that could go on in what is left
    for path in stage.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != STARTED:
            path.unlink()
    shutil.rmtree(stage)


def _begun_by(stage: Path) -> Any:
    try:
        return json.loads((stage / STARTED).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _named(words: Mapping[str, Any]) -> list[str]:
    """What a stage names of the user's own: classes of pruners, quantizers, optimizers; what builds a teacher."""
    optimizer, distil = words.get("optimizer") or {}, words.get("distil") or {}
    teacher = distil.get("teacher") or {}
    named = (words.get("pruner"), words.get("quantizer"), optimizer.get("name"), teacher.get("callable"))
    return [path for path in named if path is not None and ":" in path]
