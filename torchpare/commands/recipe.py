"""What ``torchpare run``, ``torchpare report``, ``torchpare schema`` and the plan of a recipe do."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console

from torchpare.commands.telling import tell, tell_aside
from torchpare.errors import FileError, MissingExtraError, TorchpareError
from torchpare.files.atomic import atomic_write
from torchpare.recipe import Given, Result, read_recipe, run_recipe, schema
from torchpare.recipe.page import write_report
from torchpare.recipe.preview import Preview, preview
from torchpare.recipe.reading import read_result

__all__ = ["plan", "report", "run", "write_schema"]


def run(recipe: Path, folder: Path | None, *, resume: bool, target: Path | None) -> Result:
    """Run a recipe, or what is left of it; print the table, and leave a page beside the stages.

    Args:
        recipe: the YAML file.
        folder: where every stage keeps what it made; ``runs/`` and the recipe's name, if not given.
        resume: False runs every stage anew.
        target: where the JSON goes; None for nowhere.

    Raises:
        ConfigError, FileError: the recipe cannot be carried out as it is.
        RecipeError: a stage failed.
    """
    said = read_recipe(recipe)
    folder = Path("runs") / said.name if folder is None else folder
    with redirect_stdout(sys.stderr):  # what user code prints is not what a script reads
        result = run_recipe(said, folder, Given(folder=recipe.parent), resume=resume)
    tell(result, target)
    page = _write_page(result, folder / "report.html")
    if page is not None:
        tell_aside(f"The same, to look at: {page}")
    return result


def report(folder: Path, html: Path | None, target: Path | None) -> Result:
    """Print what came of a run, finished or not, and write its page.

    Args:
        folder: of the run.
        html: where the page goes; ``report.html`` in the folder, if not given.
        target: where the JSON goes; None for nowhere.

    Raises:
        FileError: there is no run in the folder, or a spoilt one.
        MissingExtraError: jinja2 is not installed.
    """
    result = read_result(folder)
    path = folder / "report.html" if html is None else html
    try:
        write_report(result, path)
        tell(result, target)
    except TorchpareError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FileError(f"{folder / 'result.json'}: is not what a run writes ({type(error).__name__}: {error}); run "
                        "the recipe again, which takes what is done from its stages") from error  # fmt: skip
    tell_aside(f"The same, to look at: {path}")
    return result


def plan(recipe: Path, folder: Path | None, target: Path | None) -> Preview:
    """Print what a run of a recipe would do: which stages are done, and what the first pruning takes from which layer.

    Raises:
        ConfigError, FileError: the recipe cannot be carried out as it is.
    """
    said = read_recipe(recipe)
    folder = Path("runs") / said.name if folder is None else folder
    with redirect_stdout(sys.stderr):
        found = preview(said, folder, Given(folder=recipe.parent))
    tell(found, target)
    return found


def write_schema(target: Path | None) -> None:
    """Print the JSON schema of recipe files, or write it.

    Raises:
        FileError: the file cannot be written.
    """
    text = json.dumps(schema(), indent=1) + "\n"
    if target is None:
        Console(soft_wrap=True, highlight=False).print(text, end="", markup=False)
        return
    with atomic_write(target) as lent:
        lent.write_text(text, encoding="utf-8")


def _write_page(result: Result, path: Path) -> Path | None:
    """The page, where what draws it is installed."""
    try:
        write_report(result, path)
    except MissingExtraError as error:
        tell_aside(f"no page: {error}")
        return None
    return path
