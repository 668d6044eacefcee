"""What `torchpare zoo` does, once its words are understood."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from torchpare.errors import ConfigError, FileError
from torchpare.files.atomic import atomic_write
from torchpare.zoo import page
from torchpare.zoo.results import Result, SuiteResults, library_versions, read_results, write_results
from torchpare.zoo.suites import SUITES, names
from torchpare.zoo.sweep import Settings, chunk, sweep

__all__ = ["chosen", "render", "run"]

_WIDE = 160  # columns of the table where there is no terminal to ask


def chosen(suite: str, models: str | None, part: str | None) -> list[str]:
    """The models that are asked for: all, some by name, or the i-th of n parts.

    Args:
        suite: its name.
        models: names with commas between them.
        part: as ``2/5``.

    Raises:
        ConfigError: there is no such suite, model or part.
        MissingExtraError: the suite's library is not installed.
    """
    listed = names(suite)
    picked = listed if models is None else [name.strip() for name in models.split(",") if name.strip()]
    strange = [name for name in picked if name not in listed]
    if strange:
        raise ConfigError(
            f"the suite {suite!r} has no model {', '.join(map(repr, strange))}; it has {', '.join(listed)}"
        )
    if not picked:
        raise ConfigError(f"--models {models!r} names no model; put commas between names")
    if part is None:
        return list(picked)
    index, _, count = part.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ConfigError(f"--chunk {part!r} is not understood; say 2/5 for the second of five parts")
    return chunk(picked, int(index), int(count))


def run(
    suite: str, models: Sequence[str], settings: Settings, *, json: Path | None, merge: bool, markdown: Path | None
) -> SuiteResults:
    """Examines models and shows what came of them; results are written after each, so that nothing is lost.

    Args:
        suite: its name.
        models: as from `chosen`.
        settings: how each is examined.
        json: where results go; None for nowhere.
        merge: whether results that are there already stay, but for those of `models`.
        markdown: where the page goes; None for nowhere.

    Returns:
        The results of this run alone.

    Raises:
        FileError: a file cannot be written, or `json` holds something that does not go with this run.
    """
    order = names(suite)
    mine = SuiteResults(suite=suite, ratio=settings.ratio, onnx=settings.onnx, versions=library_versions(), results=())
    before = read_results(json) if merge and json is not None and json.exists() else None
    whole = mine if before is None else before.merged(mine, order)
    for path in (json, markdown):
        if path is not None and not path.parent.is_dir():  # told now, not after an hour's work
            raise FileError(f"cannot write {path}: there is no folder {path.parent}; make it first")

    with _progress() as progress:
        task = progress.add_task(suite, total=len(models))

        def on_result(result: Result) -> None:
            nonlocal whole
            whole = whole.merged(mine.model_copy(update={"results": (result,)}), order)
            if json is not None:
                write_results(whole, json)
            progress.update(task, advance=1, description=f"{suite}: {result.model}")

        found = sweep(SUITES[suite].module, models, settings, on_result)
    mine = mine.model_copy(update={"results": tuple(found)})
    console = Console()
    (console if console.is_terminal else Console(width=_WIDE)).print(page.table(mine))
    if markdown is not None:
        _write(page.markdown([whole]), markdown)
    return mine


def render(files: Sequence[Path], target: Path) -> None:
    """Writes the page of several files of results.

    Raises:
        FileError: one of them is missing or something else, or `target` cannot be written.
    """
    order = list(SUITES)
    suites = sorted((read_results(path) for path in files), key=lambda found: order.index(found.suite))
    _write(page.markdown(suites), target)


def _write(text: str, path: str | os.PathLike[str]) -> None:
    with atomic_write(path) as lent:
        lent.write_text(text, encoding="utf-8")


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    return Progress(*columns, console=console, disable=not console.is_terminal)
