"""What a command has found: on the terminal, and as JSON where that is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from torchpare.files.atomic import atomic_write, check_target

__all__ = ["check_targets", "tell", "tell_aside"]

STANDARD_OUTPUT = Path("-")


class Found(Protocol):
    """What rich can print and JSON can hold."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        ...


def check_targets(*targets: Path | None) -> None:
    """That what will be found can be written, before the time is spent to find it.

    Raises:
        FileError: a file cannot be written.
    """
    for target in targets:
        if target is not None and target != STANDARD_OUTPUT:
            check_target(target)


def tell(found: Found, target: Path | None) -> None:
    """Print what was found, wide where nobody looks, and write it to ``target``; ``-`` prints JSON in its place.

    Raises:
        FileError: the file cannot be written.
    """
    text = json.dumps(found.to_dict(), indent=1) + "\n"
    if target == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(found)
    if target is not None:
        with atomic_write(target) as lent:
            lent.write_text(text, encoding="utf-8")


def tell_aside(words: str) -> None:
    """Say something to whoever looks, beside what a script reads."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(words, markup=False)
