"""What a run would do, before it does it: which stages are done already, and what the first pruning would take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from torchpare.errors import TorchpareError
from torchpare.recipe.check import check
from torchpare.recipe.kept import fingerprints, known_stage, stage_names
from torchpare.recipe.materials import Given, gather
from torchpare.recipe.named import importing_from
from torchpare.recipe.schema import Recipe
from torchpare.recipe.settings import PruneStage, Stage
from torchpare.speedup import Plan, plan

__all__ = ["Planned", "Preview", "preview"]


@dataclass(frozen=True)
class Planned:
    """A stage to come."""

    name: str
    kind: str
    done: bool
    """Whether a run in this folder would take it from there."""
    settings: dict[str, Any]
    budgets: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Preview:
    """What a run would do."""

    name: str
    folder: Path
    stages: tuple[Planned, ...]
    pruning: Plan | None
    """What the first pruning would take from the dense model; None where no plan can be made beforehand."""
    why: str = ""
    """Why not."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        stages = [
            {"name": each.name, "kind": each.kind, "done": each.done, "settings": each.settings,
             "budgets": list(each.budgets)}
            for each in self.stages
        ]  # fmt: skip
        pruning = None if self.pruning is None else self.pruning.to_dict()
        return {"name": self.name, "folder": str(self.folder), "stages": stages, "pruning": pruning, "why": self.why}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The stages, and the plan of the first pruning."""
        table = Table(title=Text(f"{self.name}, in {self.folder}"), title_style="bold", header_style="bold")
        for head in ("", "stage", "what", "budgets"):
            table.add_column(head)
        for each in self.stages:
            mark = Text("done", style="green") if each.done else Text("to do")
            table.add_row(mark, each.name, Text(_in_words(each)), "\n".join(each.budgets))
        yield table
        if self.pruning is not None:
            yield Text("\nOf the dense model, the first pruning by sparsity alone would take:")
            yield self.pruning
        elif self.why:
            yield Text(f"\nWhat the first pruning takes cannot be told beforehand: {self.why}")


def preview(recipe: Recipe, folder: Path, given: Given | None = None) -> Preview:
    """Look at a recipe without running it; nothing is written.

    Raises:
        ConfigError: it cannot be carried out as it is.
        CheckpointError: the checkpoint does not fit the model.
    """
    given = given or Given()
    with importing_from(given.folder):
        return _previewed(recipe, folder, given)


def _previewed(recipe: Recipe, folder: Path, given: Given) -> Preview:
    materials, beginning = gather(recipe, given)
    check(recipe, materials)
    marks, stages = fingerprints(recipe, beginning), []
    for number, (name, item) in enumerate(zip(stage_names(recipe), recipe.stages, strict=True), 1):
        done = known_stage(folder, number, name, marks[number]) is not None
        stages.append(Planned(name, item.kind, done, _settings(item.stage), tuple(b.text for b in item.stage.budget)))
    first = next((item.stage for item in recipe.stages if isinstance(item.stage, PruneStage)), None)
    found, why = None, ""
    if first is not None:
        try:
            found = plan(materials.build(), first.config_list, materials.example)
        except TorchpareError as error:
            why = str(error).splitlines()[0]
    return Preview(recipe.name, folder, tuple(stages), found, why)


def _settings(stage: Stage) -> dict[str, Any]:
    return stage.model_dump(mode="json", exclude_defaults=True, exclude={"name", "budget"})


def _in_words(each: Planned) -> str:
    said = {key: value for key, value in each.settings.items() if key != "config_list"}
    entries = each.settings.get("config_list")
    words = [f"{key}: {value}" for key, value in said.items()]
    if entries is not None:
        words.append(f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}")
    return ", ".join(words)
