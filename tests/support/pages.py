"""The pages that people read, and the fenced blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Block", "blocks", "text_of"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
"""Every page, as a path from the root; a new one is found by itself. CONTRIBUTING.md has a test of its own."""

FENCE = re.compile(r"^(<!-- figures vary -->\n)?```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and the line of the page on which its fence stands."""

    kind: str
    content: str
    line: int
    varies: bool
    """Whether its figures are those of one run on one machine: a comment in front of it says so."""


def text_of(page: str) -> str:
    """The page as it is written."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The page's blocks, in order."""
    text = text_of(page)
    return [
        Block(match[2], match[3], text[: match.start(2)].count("\n") + 1, match[1] is not None)
        for match in FENCE.finditer(text)
    ]
