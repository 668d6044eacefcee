"""Pictures of docs/figures are written into the page, so that they take on its colours, light or dark.

As files they follow the reader's system instead, which is what GitHub shows.
"""
# ruff: noqa: INP001

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

IMAGE = re.compile(r'<p><img alt="([^"]*)" src="[^"]*figures/([\w-]+\.svg)" ?/?></p>')


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Put the drawing where its picture was linked."""

    def drawn(match: re.Match[str]) -> str:
        svg = (Path(config["docs_dir"]) / "figures" / match[2]).read_text(encoding="utf-8")
        return f'<figure class="drawing">{svg}<figcaption>{match[1]}</figcaption></figure>'

    return IMAGE.sub(drawn, html)
