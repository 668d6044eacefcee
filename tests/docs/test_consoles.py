"""Every command that a page shows can be typed: the command line, the Makefile and the extras know it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib

import pytest
import typer
from typer.testing import CliRunner

from tests.docs.test_documents import says
from tests.support.pages import PAGES, ROOT, Block, blocks
from torchpare.cli import app

MAKE_WORDS = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
CONSOLES = [(page, block) for page in PAGES for block in blocks(page) if block.kind in ("console", "bash", "sh")]


def commands(block: Block) -> list[tuple[list[str], str]]:
    """The commands of a block, as words, each with what it prints."""
    joined = block.content.replace("\\\n", " ")
    parts = re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]
    return [
        (shlex.split(line, comments=True), printed) for line, _, printed in (part.partition("\n") for part in parts)
    ]


@pytest.mark.parametrize(("page", "block"), [pytest.param(page, b, id=f"{page}:{b.line}") for page, b in CONSOLES])
def test_the_commands_of_a_page_can_be_typed_and_print_what_it_shows(page, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    for words, printed in commands(block):
        match words:
            case ["torchpare", *arguments]:
                check_torchpare(arguments, printed, block, page)
            case ["make", *targets]:
                assert set(targets) <= MAKE_WORDS, f"{page} says make {targets}"
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module), f"{page} runs {module}"
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).is_file(), f"{page} runs {script}"
            case ["pip", "install", what, *_]:
                assert set(re.findall(r"[a-z0-9]+", what.partition("[")[2])) <= EXTRAS, f"{page} installs {what}"
            case ["torchrun" | "ray" | "accelerate", *_]:
                pass  # engines of others
            case _:
                pytest.fail(f"{page} shows {words}, and nothing says what that is")


def check_torchpare(arguments: list[str], printed: str, block: Block, page: str) -> None:
    """The words are understood; where the page shows what comes, it comes."""
    if printed.strip():
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert says(printed, result.output, block.varies), f"{page} shows\n{printed}\nand it prints\n{result.output}"
        return
    group = typer.main.get_command(app)
    name, *options = arguments
    command = group.commands[name]  # type: ignore[attr-defined]
    command.make_context(name, options, parent=typer.Context(group), resilient_parsing=False)


def test_a_wrong_option_is_noticed():
    with pytest.raises(Exception, match="--roundto"):
        check_torchpare(["plan", "resnet20:ResNet20", "--input", "1x1x8x8", "--roundto", "8"], "", None, "")  # type: ignore[arg-type]
