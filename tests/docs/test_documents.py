"""Every python block of a page is run, in order and in one session; a text block after one is what it prints."""

from __future__ import annotations

import contextlib
import doctest
import io
import logging
import re

import pytest
import torch

from tests.support.pages import PAGES, ROOT, blocks, text_of
from tests.support.vision import torchvision_models

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SLOW = {"docs/start.md", "docs/search.md", "docs/quantizers.md", "docs/speed.md", *(p for p in PAGES if "/tasks/" in p)}
RUNNING = [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]


@pytest.mark.filterwarnings("ignore::UserWarning:(lightning|transformers|torch.utils.data).*")  # what machines lack
@pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.*")
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in RUNNING]
)
def test_the_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    if re.search("transformers|torchvision|lightning", text_of(page)):
        torchvision_models()  # registers the operator without which its wheel cannot be imported beside our torch
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    session: dict[str, object] = {"__name__": page}
    printed = None
    try:
        for block in blocks(page):
            if block.kind == "python":
                printed = run(block.content, session, page, block.line)
            elif block.kind == "text" and printed is not None:
                assert says(block.content, printed, block.varies), (
                    f"{page} says\n{block.content}\nand the block prints\n{printed}"
                )
                printed = None
    finally:
        logging.disable(logging.NOTSET)


def run(content: str, session: dict[str, object], page: str, line: int) -> str:
    """What the block prints; an error shows the line of the page."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\n" * line + content, str(ROOT / page), "exec"), session)
    return out.getvalue()


def says(content: str, printed: str, varies: bool) -> bool:
    """Whether a page shows what was printed; where figures vary, the words count, and how many figures there are."""
    if varies:
        return without_figures(content) == without_figures(printed)
    return doctest.OutputChecker().check_output(rounded(content), rounded(printed), doctest.ELLIPSIS)


def without_figures(text: str) -> str:
    """The words, with a mark for each number, and no matter how wide the columns are."""
    plain = re.sub(r"[─━┬┴┼╇╈═┳┻]+", "─", re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text))
    return " ".join(plain.split())


def rounded(text: str) -> str:
    """Without what is rounding alone, which differs from one processor to the next."""
    return re.sub(r"(largest difference) (0|\d[\d.]*e-1[5-9]) ", r"\1 ~0 ", text)


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in LINK.findall(prose) if "://" not in target]
    for target in targets:
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_imports_that_a_page_names_in_passing_work(page):
    for statement in re.findall(r"`(from torchpare[\w.]* import [\w, ]+)`", text_of(page)):
        exec(statement, {})


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_python_is_missed(page):
    """A block that is indented would be shown and not run."""
    assert text_of(page).count("```python") == sum(block.kind == "python" for block in blocks(page))


def test_the_example_in_the_readme_has_ten_lines():
    example = next(block.content for block in blocks("README.md") if block.kind == "python")
    assert len([line for line in example.splitlines() if line.strip() and "import" not in line]) <= 10


def test_figures_may_vary_and_words_may_not():
    assert says("took 3.1 ms (2 of 4)\n", "took  10.25 ms (1 of 9)\n", varies=True)
    assert not says("took 3.1 ms\n", "took 3.1 s\n", varies=True)
    assert not says("took 3.1 ms\n", "took 3.2 ms\n", varies=False)
