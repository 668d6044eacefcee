"""Every python block of a page is run, in order and in one session; a text block after one is what it prints."""

from __future__ import annotations

import contextlib
import doctest
import io
import logging
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/tutorial.md",
    "docs/coming-from-nni.md",
    "docs/structures.md",
    "docs/pruners.md",
    "docs/quantizers.md",
    "docs/speed.md",
    "docs/search.md",
    "docs/scale-out.md",
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    session: dict[str, object] = {"__name__": page}
    blocks = [
        (match[1], match[2], match.start()) for match in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))
    ]
    printed = None
    try:
        for kind, content, start in blocks:
            if kind == "python":
                printed = run(content, session, page, start)
            elif kind == "text" and printed is not None:
                same = doctest.OutputChecker().check_output(rounded(content), rounded(printed), doctest.ELLIPSIS)
                assert same, f"{page} says\n{content}\nand the block prints\n{printed}"
                printed = None
    finally:
        logging.disable(logging.NOTSET)


def run(content: str, session: dict[str, object], page: str, start: int) -> str:
    """What the block prints; an error shows the line of the page."""
    above = (ROOT / page).read_text(encoding="utf-8")[:start].count("\n") + 1
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\n" * above + content, str(ROOT / page), "exec"), session)
    return out.getvalue()


def rounded(text: str) -> str:
    """Without what is rounding alone, which differs from one processor to the next."""
    return re.sub(r"(largest difference) (0|\d[\d.]*e-1[5-9]) ", r"\1 ~0 ", text)


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    targets = [target for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")) if "://" not in target]
    for target in targets:
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_example_in_the_readme_has_ten_lines():
    example = next(m[2] for m in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8")) if m[1] == "python")
    assert len([line for line in example.splitlines() if line.strip() and "import" not in line]) <= 10
