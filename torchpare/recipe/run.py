"""A recipe at work: stage by stage, each kept on disk when it is over, so that a killed run goes on where it was.

Every stage starts from the files of the one before, also where nothing was interrupted, and draws what its own seed
says. So a run that was killed at any point and started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from torchpare.attach import masks_of, quantizers_of
from torchpare.errors import FileError, RecipeError, TorchpareError
from torchpare.recipe.artifact import MODEL, Quantized, read_artifact, write_artifact
from torchpare.recipe.check import budgets, check
from torchpare.recipe.job import Job, Materials, Outcome, put_on
from torchpare.recipe.kept import STAGE, fingerprints, known_stage, make_room, renamed, stage_names
from torchpare.recipe.materials import Given, gather
from torchpare.recipe.named import importing_from, in_words
from torchpare.recipe.result import Result, StageResult
from torchpare.recipe.schema import Recipe, StageItem
from torchpare.recipe.stages import RUN
from torchpare.report import count_flops_params, describe_machine
from torchpare.search.journal import alone_in, digest
from torchpare.search.trial import seeded

__all__ = ["run_recipe"]

log = logging.getLogger(__name__)


def run_recipe(recipe: Recipe, folder: Path | None, given: Given | None = None, *, resume: bool = True) -> Result:
    """Run a recipe, or what is left of it.

    Args:
        recipe: what to do.
        folder: where every stage keeps what it made; made if missing. None takes a temporary one, which stays until
            the process that made it deletes it.
        given: objects in place of what the recipe names.
        resume: False runs every stage anew.

    Raises:
        ConfigError: the recipe cannot be carried out as it is; nothing but the dense model was run.
        FileError: the folder cannot be used.
        RecipeError: a stage failed; the ones before it are done.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"torchpare-{recipe.name}-")) if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot keep the run in {folder}: {error.strerror or error}") from error
    given = given or Given()
    with alone_in(folder, "run", "folder"), _threads(recipe.threads), importing_from(given.folder):
        materials, beginning = gather(recipe, given)
        check(recipe, materials)
        return _Run(recipe, folder, materials, beginning, resume=resume, beside=given.folder).go()


class _Run:
    """One run of a recipe in a folder."""

    def __init__(
        self, recipe: Recipe, folder: Path, materials: Materials, beginning: str, *, resume: bool, beside: Path | None
    ) -> None:
        self.recipe, self.folder, self.materials, self.resume = recipe, folder, materials, resume
        self.beside = None if beside is None else beside.resolve()
        self.beginning = beginning

    def go(self) -> Result:
        """Run every stage that is not done."""
        names, marks = stage_names(self.recipe), fingerprints(self.recipe, self.beginning)
        done: list[StageResult] = []
        with _bar() as bar:
            task = bar.add_task(self.recipe.name, total=1.0)
            for number in range(len(names) + 1):
                name = names[number - 1] if number else "dense"
                title = f"[bold]{self.recipe.name}[/] {number}/{len(names)} {name}"
                bar.reset(task, description=title, total=1.0)
                item = self.recipe.stages[number - 1] if number else None

                def progress(what: str, share: float, title: str = title) -> None:
                    bar.update(task, completed=share, description=f"{title}: {escape(what)}")

                known = self._known(number, name, marks[number], item)
                if known is None:
                    if item is not None and item.kind == "prune":
                        bar.stop()  # pruners that train or search have bars of their own
                    known = self._stage(number, name, marks[number], item, done, progress)
                    bar.start()
                done.append(known)
                self._result(done, None)
                if not number:
                    budgets(self.recipe, known.metrics)
                if not known.ok:
                    break
        model, _ = self._model_behind(done[-1])
        return self._result(done, model)

    def _known(self, number: int, name: str, mark: str, item: StageItem | None) -> StageResult | None:
        """What a stage came to earlier, if it is done; its budgets are judged anew."""
        known = known_stage(self.folder, number, name, mark) if self.resume else None
        return None if known is None else self._judged(renamed(self.folder, known, name), item)

    def _stage(
        self, number: int, name: str, mark: str, item: StageItem | None, done: list[StageResult], progress: Any
    ) -> StageResult:
        folder = self.folder / f"{number:02}-{name}"
        start = time.perf_counter()
        try:
            make_room(self.folder, number, name, mark, resume=self.resume)
            if item is None:
                outcome, metrics = self._dense(folder)
            else:
                model, quantized = self._model_behind(done[-1])
                key = digest(self.recipe.seed, number, item.kind)  # what is drawn depends on nothing else
                job = Job(self.materials, folder, key, model, quantized, done[-1].metrics, progress)
                with seeded(int(key[:8], 16)):
                    outcome = RUN[item.kind](item.stage, job)
                write_artifact(outcome.model, folder, outcome.quantized)
                progress("evaluating", 1.0)
                same = item.kind in ("export", "benchmark", "study")  # which leave the model as it is
                metrics = dict(done[-1].metrics) if same else self._metrics(outcome.model, folder)
            metrics = {**metrics, **(outcome.metrics or {})}
            dense = {**(done[0].metrics if done else metrics), **(outcome.dense or {})}
            kind, seconds = item.kind if item else "dense", time.perf_counter() - start
            result = StageResult(number, name, kind, seconds, metrics, dense, outcome.details, outcome.failure,
                                 fingerprint=mark)  # fmt: skip
            result.write(folder / STAGE)
        except Exception as error:  # the user's own code runs in stages, and disks are full
            raise RecipeError(f"stage {number} ({name}) failed: {in_words(error)}\nThe stages before it are done, in "
                              f"{self.folder}: mend that and run the recipe again") from error  # fmt: skip
        for trained in folder.glob("training*.pth"):
            trained.unlink(missing_ok=True)
        return self._judged(result, item)

    def _dense(self, folder: Path) -> tuple[Outcome, dict[str, float]]:
        model = self.materials.build()
        write_artifact(model, folder, None)
        model.to(self.materials.device)
        return Outcome(model, None), self._metrics(model, folder)

    def _metrics(self, model: nn.Module, folder: Path) -> dict[str, float]:
        found = {**self.materials.metrics(model), "parameters": float(_weights(model))}
        example = Job(self.materials, folder, "", model).example
        try:
            macs, _, _ = count_flops_params(model, example, verbose=False)
            found["macs"] = float(macs)
        except TorchpareError as error:
            log.warning("operations could not be counted: %s", error)
        if (folder / MODEL).exists():
            found["size"] = float((folder / MODEL).stat().st_size)
        return found

    def _model_behind(self, stage: StageResult) -> tuple[nn.Module, Quantized | None]:
        """The model as a stage left it, on the device."""

        def hang(model: nn.Module, said: Quantized) -> None:
            put_on(model, said, self.materials.example).compress()

        model, quantized = read_artifact(self.materials.build(), self.folder / stage.folder, hang)
        return model.to(self.materials.device), quantized

    def _judged(self, result: StageResult, item: StageItem | None) -> StageResult:
        budgets = item.stage.budget if item is not None else ()
        verdicts = tuple(budget.judge(result.metrics, result.dense) for budget in budgets)
        return replace(result, verdicts=verdicts)

    def _result(self, done: list[StageResult], model: nn.Module | None) -> Result:
        """What came of it so far; also on disk, from where reports are made."""
        environment = {"machine": describe_machine(), "PyTorch": torch.__version__, "device": self.materials.device}
        result = Result(self.recipe.name, self.folder, tuple(done), len(self.recipe.stages), model, environment,
                        self.recipe.model_dump(mode="json", exclude_defaults=True), self.beside)  # fmt: skip
        result.write_json(self.folder / "result.json")
        return result


def _weights(model: nn.Module) -> int:
    """Parameters that are left: all of the model's, without those that are masked and those that quantizers learn."""
    grids = {id(parameter) for _, _, _, quantizer in quantizers_of(model) for parameter in quantizer.parameters()}
    left = {id(parameter): parameter.numel() for parameter in model.parameters() if id(parameter) not in grids}
    for layer, own in masks_of(model).items():
        for name, mask in own.items():  # of size 1 along each axis on which it does not vary
            parameter = model.get_submodule(layer)._parameters[name]  # noqa: SLF001 - reading the attribute multiplies
            assert parameter is not None
            left[id(parameter)] = int(mask.expand(parameter.shape).sum())
    return sum(left.values())


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bar() -> Progress:
    """What is being done, how far it is and how long it will still take; on a terminal only."""
    console = Console(stderr=True)
    done = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    columns = (*done, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
