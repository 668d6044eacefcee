"""Names that docstrings write as roles, such as :class:`SearchPruner`, become links to where they are described.

``help()`` shows docstrings as they are; the site shows the name alone, in code, and links it.
"""
# ruff: noqa: INP001

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):<code>~?([\w.]+)</code>")
ROOMS = ("torchpare", "pruning", "speedup", "quantization", "runtimes", "search", "report", "config")


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Turn every role; what has no description on the site stays plain code."""
    return ROLE.sub(linked, html)


def linked(match: re.Match[str]) -> str:
    """A reference that mkdocs-autorefs fills in; ``optional``, for what is named may be no public name."""
    name = match[1]
    return f'<autoref identifier="{whole(name)}" optional><code>{name.rpartition(".")[2]}</code></autoref>'


def whole(name: str) -> str:
    """The name with its room, if it is one that a room hands on."""
    if "." in name:
        return name
    for room in ROOMS:
        module = room if room == "torchpare" else f"torchpare.{room}"
        if name in import_module(module).__all__:
            return f"{module}.{name}"
    return name
