"""Any report as one web page in one file: pictures inside, nothing fetched, nothing run.

A page is an immutable value: a title, a verdict, figures in large type, sections of blocks, and what it was measured
on. It follows the reader's light or dark setting, fits a telephone, and prints.

    page = Page("ResNet-18", sections=(Section("Layers", blocks=(TableBlock(["layer", "MACs"], [["conv1", 118]]),)),))
    write_page(page, "report.html")
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchpare.files.atomic import atomic_write
from torchpare.report.blocks import Block, Tone
from torchpare.report.template import render_template

__all__ = ["Headline", "Page", "Section", "Verdict", "render_page", "write_page"]

_MANY_SECTIONS = 5  # from here on, a line of links to them helps


@dataclass(frozen=True)
class Headline:
    """One figure in large type.

    Args:
        what: it counts.
        figure: as it is to be read, such as "4.0" and a sign for times.
        unit: a word after it, in smaller type.
        detail: a line below it, such as from what to what.
        tone: ``"good"`` and ``"bad"`` colour it.
    """

    what: str
    figure: str
    unit: str = ""
    detail: str = ""
    tone: Tone = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        said = {"what": self.what, "figure": self.figure, "unit": self.unit}
        return {**said, "detail": self.detail, "tone": self.tone}


@dataclass(frozen=True)
class Verdict:
    """What came of it, in a sentence that can be read alone.

    Args:
        text: the sentence.
        tone: ``"good"`` where what was asked for is reached, ``"bad"`` where it is not.
        detail: why, in another sentence.
    """

    text: str
    tone: Tone = ""
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {"text": self.text, "tone": self.tone, "detail": self.detail}


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it. One without text and blocks is left out."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {"title": self.title, "text": self.text, "blocks": [block.to_dict() for block in self.blocks]}


@dataclass(frozen=True)
class Page:
    """A report.

    Args:
        title: what it is about.
        summary: a sentence or two below the title.
        verdict: what came of it; a string is a verdict without a tone.
        sections: in order.
        headlines: figures in large type; four stand in a row.
        environment: what it was measured on, by name; stands at the end.
        kind: the words above the title.
        footer: the last line.
    """

    title: str
    summary: str = ""
    verdict: Verdict | str | None = None
    sections: Sequence[Section] = ()
    headlines: Sequence[Headline] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    kind: str = "torchpare report"
    footer: str = "Written by torchpare. Everything on this page was measured in the run that made it."

    def to_dict(self) -> dict[str, Any]:
        """All that the page says, as JSON knows it."""
        verdict = _verdict(self.verdict)
        return {
            "kind": self.kind,
            "title": self.title,
            "summary": self.summary,
            "verdict": None if verdict is None else verdict.to_dict(),
            "headlines": [headline.to_dict() for headline in self.headlines],
            "sections": [section.to_dict() for section in self.sections],
            "environment": {str(name): str(value) for name, value in self.environment.items()},
            "footer": self.footer,
        }

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write all that the page says for programs to read.

        Raises:
            FileError: the file cannot be written.
        """
        with atomic_write(path) as lent:
            lent.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def render_page(page: Page) -> str:
    """The page as text; well-formed XML after its first line.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    sections = [section for section in page.sections if section.text or section.blocks]
    return render_template(
        "page.html.jinja",
        page=page,
        verdict=_verdict(page.verdict),
        sections=sections,
        contents=len(sections) >= _MANY_SECTIONS,
    )


def write_page(page: Page, path: str | os.PathLike[str]) -> None:
    """Write the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
        FileError: the file cannot be written.
    """
    text = render_page(page)
    with atomic_write(path) as lent:
        lent.write_text(text, encoding="utf-8")


def _verdict(given: Verdict | str | None) -> Verdict | None:
    return Verdict(given) if isinstance(given, str) else given
