"""The page of the command line is written from the commands themselves: what they say of each argument and option."""
# ruff: noqa: INP001

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup, TyperOption

MARK = "<!-- commands: every one, from torchpare/cli.py -->"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Put the commands where the mark is."""
    return markdown.replace(MARK, described()) if MARK in markdown else markdown


def described() -> str:
    """A section for each command, with a table of what it takes."""
    from torchpare.cli import app

    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    context = typer.Context(group, info_name="torchpare")
    return "\n\n".join(section(name, command, context) for name, command in sorted(group.commands.items()))


def section(name: str, command: Any, parent: typer.Context) -> str:
    """Usage, what the command is for, and its arguments and options."""
    context = typer.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context)).translate(str.maketrans("{}", "<>"))
    rows = [row(parameter, context) for parameter in command.params if not getattr(parameter, "hidden", False)]
    table = "\n".join(["| | what it says | if left out |", "|---|---|---|", *rows])
    return f"## torchpare {name}\n\n```text\ntorchpare {name} {usage}\n```\n\n{command.help}\n\n{table}"


def row(parameter: Any, context: typer.Context) -> str:
    """One line of the table."""
    is_option = isinstance(parameter, TyperOption)
    spelled = [*parameter.opts, *parameter.secondary_opts] if is_option else [(parameter.name or "").upper()]
    default = parameter.get_default(context)
    said_default = "" if default in (None, False, (), []) else f"`{default}`"
    absent = "must be given" if parameter.required else said_default
    said = (parameter.help or "").replace("|", "\\|")
    return f"| {', '.join(f'`{name}`' for name in spelled)} | {said} | {absent} |"
