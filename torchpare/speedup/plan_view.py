"""A plan for people: a table of its groups, and a line for everything that stays or changes."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from torchpare.speedup.groups import GroupPlan

if TYPE_CHECKING:
    from torchpare.speedup.planning import Plan

__all__ = ["as_text", "lines_of", "table_of"]

_WIDTH = 120


def as_text(plan: Plan) -> str:
    """The plan as plain text."""
    console = Console(width=_WIDTH, file=StringIO(), record=True)
    console.print(plan)
    return console.export_text()


def table_of(plan: Plan) -> Table:
    """A row for every group from which something can go, and for every stack and mixture that was asked about."""
    table = Table(title="What would go")
    table.add_column("structure")
    table.add_column("made by", overflow="fold")
    table.add_column("tensors", overflow="fold")
    for column in ("before", "after", "saved", "MACs"):
        table.add_column(column, justify="right")
    table.add_column("held back by", overflow="fold")
    for group in plan.groups:
        table.add_row(
            group.kind,
            _first_and(group.layers or (group.name,)),
            _tensors(group),
            _count(group, group.before),
            _count(group, group.after),
            f"{group.parameters_saved:,}",
            f"{group.macs_saved:,}",
            group.why or "",
        )
    for stack in plan.stacks:
        gone = plan.dropped.get(stack.path, [])
        names = f"without {', '.join(map(str, gone))}" if gone else ""
        table.add_row("layers", stack.path, names, f"{stack.size}", f"{stack.size - len(gone)}", "", "", "")
    for mixture in plan.routed:
        gone = plan.experts.get(mixture.mixture.experts, [])
        names = f"without {', '.join(map(str, gone))}" if gone else ""
        size = mixture.mixture.size
        why = f"a token goes to {mixture.least}" if size - len(gone) == mixture.least else ""
        table.add_row("experts", mixture.path, names, f"{size}", f"{size - len(gone)}", "", "", why)
    return table


def lines_of(plan: Plan) -> Iterator[str]:
    """The totals; then what stays and why, where the function changes, sizes in the source, unknown operators."""
    for what, (before, after) in (("parameters", plan.parameters), ("MACs", plan.macs)):
        yield f"{before:,} -> {after:,} {what} ({before / max(after, 1):.2f}x fewer)"
    for layer, why in plan.frozen.items():
        yield f"stays: {layer or 'the model'} ({why})"
    for change in plan.changes:
        yield f"changes by nature: {change}"
    for module in sorted(plan.rescaled):
        yield f"rescaled to stay the same function: {module or 'the model'}"
    for value, where in plan.space.literals:
        yield f"written as a number: {value} in {where} (literals='trace' lets it go)"
    for name, place in plan.space.unknown.items():
        yield f"no rule for {name}, first met in {place}: what flows through it stays"
    for path, sibling in plan.space.followed.items():
        yield f"not reached by the example inputs, so it shrinks in step with '{sibling}': {path}"
    if plan.space.unreached:
        yield f"not reached by the example inputs, so not shrunk: {', '.join(plan.space.unreached)}"


def _count(group: GroupPlan, number: int) -> str:
    return f"{group.rows} x {number}" if group.rows > 1 else f"{number}"


def _first_and(names: tuple[str, ...]) -> str:
    first = names[0] or "(the model)"
    return f"{first} and {len(names) - 1} more" if len(names) > 1 else first


def _tensors(group: GroupPlan) -> str:
    """The first tensor with its shapes, and how many more there are."""
    first = group.members[0]
    shapes = _shape(first.before) + ("" if first.before == first.after else f" -> {_shape(first.after)}")
    more = f", {len(group.members) - 1} more" if len(group.members) > 1 else ""
    return f"{first.name} {shapes}{more}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
