"""``plan``: what would go, what would stay and why, before anything is touched; and ``apply``, which does it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from math import prod
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor, fx, nn

from torchpare.config import read_entries
from torchpare.errors import ConfigError, ProofError, ShrinkError
from torchpare.graph import PruningSpace, Removal, analyse, group_masks
from torchpare.graph.choice import atom_scores, choose
from torchpare.graph.flow import Note
from torchpare.graph.sizes import Attribute
from torchpare.graph.structures import LAYERS, Group, groups_of
from torchpare.layers.blocks import drop_blocks
from torchpare.speedup.allocation import Allocation, allocate, allocate_depth
from torchpare.speedup.depth import Stack, choose_blocks, find_stacks, without_blocks
from torchpare.speedup.model_speedup import ModelSpeedup
from torchpare.speedup.report import SpeedupReport
from torchpare.speedup.rms_norms import find_rms_norms
from torchpare.speedup.shrink_plan import ShrinkPlan, make_plan
from torchpare.speedup.traced import traced_model
from torchpare.types import Masks

__all__ = ["GroupPlan", "Plan", "plan"]


@dataclass(frozen=True)
class GroupPlan:
    """One group of channels in a plan.

    Attributes:
        kind: its structure, such as ``"heads"``; see `torchpare.graph.structures.STRUCTURES`.
        name: the first layer that makes it.
        layers: all layers that make it.
        members: (parameter, axis) that lose something with it.
        rows: how many rows choose for themselves but keep equally many.
        before, after: how many there are in each row.
        asked: how many were asked to stay.
        why: what keeps it from losing as many as were asked for, or None.
    """

    kind: str
    name: str
    layers: tuple[str, ...]
    members: tuple[tuple[str, int], ...]
    rows: int
    before: int
    after: int
    asked: int
    why: str | None


@dataclass(frozen=True)
class Plan:
    """What `plan` found; print it, read its fields, or `apply` it.

    Attributes:
        model: the model it was made for, untouched.
        example_inputs: what it was traced on.
        removal: the decision.
        decide: decides anew, with some attributes of modules kept as they are.
        shrink: what it means for each tensor and attribute.
        groups: every group from which something can go.
    """

    model: nn.Module
    example_inputs: Any
    removal: Removal
    decide: Callable[[Collection[Attribute]], Removal] = field(repr=False, compare=False)
    shrink: ShrinkPlan
    groups: tuple[GroupPlan, ...]
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """By path of a stack, the blocks that go. Names and parameters elsewhere are those of the model without them."""
    stacks: tuple[Stack, ...] = ()
    rescaled: frozenset[str] = frozenset()
    """RMS norms that will make up for the channels they lose."""
    traced: bool = False
    """Whether sizes written as numbers were let go, so that only `graph` gives a working model."""

    @property
    def space(self) -> PruningSpace:
        """The analysis behind it."""
        return self.removal.space

    def masks(self) -> Masks:
        """The masks under which the model computes what the small one will."""
        return group_masks(self.removal, {})

    def apply(self, *, verify: bool = True, tolerance: float = 1e-10) -> SpeedupReport:
        """Shrink the model in place and prove it; on any error it is as it was.

        Args:
            verify: False skips the proof.
            tolerance: the largest allowed difference, relative to the output's range.

        A number that the model's code uses in a way that nobody can see (through numpy, a scripted function, a tensor)
        shows when the small model is first run: then the module's numbers stay as they are, with whatever depends on
        them, and the rest is tried again.

        Raises:
            ProofError: the small model differs from the masked one.
            ShrinkError: the small model cannot be made or run.
        """
        if self.traced and self.space.literals:
            lines = "; ".join(f"{value} in {where}" for value, where in self.space.literals)
            message = (
                f"sizes are written as numbers in the model's source ({lines}), so its Python code cannot run with "
                "fewer channels: graph() gives the small model as a graph, or plan with literals='keep'"
            )
            raise ShrinkError(message)
        with without_blocks(self.model, self.dropped, self.example_inputs if verify else None, tolerance):
            removal, pinned = self.removal, set[Attribute]()
            while True:
                try:
                    return ModelSpeedup.of_removal(
                        self.model, self.example_inputs, removal, tolerance=tolerance, verify=verify
                    )
                except ShrinkError as error:
                    more = _suspects(error, removal) - pinned
                    if not more:
                        raise
                    pinned |= more
                    removal = self.decide(pinned)

    def graph(self, *, tolerance: float = 1e-10) -> fx.GraphModule:
        """The small model as a graph of operators; the model itself is not changed.

        It takes the tensors of the example inputs in order, in their shapes, and returns the tensors that the model
        returns. Plan with ``literals="trace"`` for it. Channels that norms are taken over fall under the same rule as
        in `apply`; it is proved in float64 against the masked model.

        Raises:
            ShrinkError: it was not planned with ``literals="trace"``, or an operator cannot be rewritten.
            ProofError: the graph computes something else than the masked model.
        """
        if not self.traced or self.dropped:
            raise ShrinkError("a graph is made of a plan with literals='trace' and without the structure 'layers'")
        return traced_model(self.model, self.example_inputs, self.shrink, self.masks(), tolerance)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return {
            "groups": [vars(group) for group in self.groups],
            "dropped": dict(self.dropped),
            **self.shrink.describe(),
        }

    def __str__(self) -> str:
        console = Console(width=110, record=True, file=StringIO())
        console.print(self)
        return console.export_text()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title="What would go")
        for column in ("structure", "made by", "tensors"):
            table.add_column(column)
        for column in ("before", "after"):
            table.add_column(column, justify="right")
        table.add_column("held back by")
        for group in self.groups:
            rows = f"{group.rows} x " if group.rows > 1 else ""
            more = f" and {len(group.layers) - 1} more" if len(group.layers) > 1 else ""
            table.add_row(
                group.kind,
                f"{group.name or '(the model)'}{more}",
                f"{len(group.members)}",
                f"{rows}{group.before}",
                f"{rows}{group.after}",
                group.why or "",
            )
        for stack in self.stacks:
            gone = self.dropped.get(stack.path, [])
            names = f"without {', '.join(map(str, gone))}" if gone else ""
            table.add_row("layers", stack.path, "", f"{stack.size}", f"{stack.size - len(gone)}", names)
        yield table
        yield from self._lines()

    def _lines(self) -> Iterator[str]:
        before, after = self.parameters
        yield f"{before:,} -> {after:,} parameters ({before / max(after, 1):.2f}x fewer)"
        for layer, why in self.frozen.items():
            yield f"stays: {layer} ({why})"
        for kind, module in sorted({(note.kind, note.module) for note in self._touched_notes()}):
            yield f"changes by nature: {kind} in {module or 'the model'}"
        for value, where in self.space.literals:
            yield f"written as a number: {value} in {where} (literals='trace' lets it go)"
        for name, place in self.space.unknown.items():
            yield f"no rule for {name}, first met in {place}: what flows through it stays"

    @property
    def parameters(self) -> tuple[int, int]:
        """How many parameters there are, and would be."""
        values = {v.uid: v for v in self.space.values.values() if v.kind == "parameter"}
        return (
            sum(prod(value.shape) for value in values.values()),
            sum(prod(self.removal.shape(uid)) for uid in values),
        )

    @property
    def frozen(self) -> dict[str, str]:
        """Layers of which some channels can never go, each with the reason."""
        found = {layer: self.space.frozen(layer) for layer in self.space.producers}
        return {layer: why for layer, why in found.items() if why}

    def _touched_notes(self) -> list[Note]:
        notes = (note for note in self.space.notes if note.module not in self.rescaled)
        return [note for note in notes if self.removal.lost(note.labels).any()]


def _suspects(error: ShrinkError, removal: Removal) -> set[Attribute]:
    """The attributes that were changed where the small model failed to run; none where it ran and differed."""
    cause = error.__cause__
    if isinstance(error, ProofError) or cause is None or not hasattr(cause, "torchpare_module"):
        return set()
    changed = {a for a, value in removal.attributes.items() if value != removal.space.program.attributes[a]}
    path: str = cause.torchpare_module
    while True:  # the innermost module around the failure that had a number changed
        near = {a for a in changed if a.module == path or a.module.startswith(f"{path}." if path else "")}
        if near or not path:
            return near or changed
        path = path.rpartition(".")[0]


def plan(
    model: nn.Module,
    config_list: Sequence[Mapping[str, Any]],
    example_inputs: Any,
    *,
    scores: Mapping[str, Tensor] | None = None,
    outputs: Callable[[Any], Any] | None = None,
    literals: Literal["keep", "trace"] = "keep",
) -> Plan:
    """Decide what to remove from a model, without touching it.

    Args:
        model: any module; weights on the meta device suffice, if nothing is to be applied.
        config_list: entries with ``sparsity`` and ``structures`` (see :class:`torchpare.config.Entry`). Later entries
            win, group by group; an entry with ``op_names`` or ``op_types`` reaches the groups all of whose makers it
            names, an entry with ``exclude`` those of which it names any.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        scores: by parameter name, importances of the parameter's shape, taken instead of the weights' sizes.

        outputs: picks from what the model returns what must keep its shape and is compared, such as
            ``lambda output: output.logits``; everything must, if it is not given.
        literals: what to do where a size is written as a number in the model's source: ``"keep"`` as many channels as
            it says, or let them go and ``"trace"`` the model: its Python code cannot run any more then, and `Plan.graph`
            gives the small model as a graph.

    Raises:
        ConfigError: an entry cannot be used, or reaches nothing.
        CaptureError: the model cannot be run on the example inputs.
    """
    if literals not in ("keep", "trace"):
        raise ConfigError(f"literals is {literals!r}; it is 'keep' or 'trace'")
    entries = read_entries(config_list)
    deep = any(LAYERS in (entry.structures or ()) for entry in entries)
    stacks = find_stacks(model, example_inputs) if deep else []
    dropped = choose_blocks(stacks, allocate_depth(entries, stacks, model)) if deep else {}
    put_back = drop_blocks(model, dropped)
    try:
        trace = literals == "trace"
        device = "cpu" if trace else None
        space = analyse(model, example_inputs, outputs=outputs, device=device, free_literals=trace)
        groups = groups_of(space)
        asked = allocate(entries, groups, model)
        weights = dict(model.named_parameters(remove_duplicate=False)) if scores is None else scores
        importance = atom_scores(space, weights)

        def decide(pinned: Collection[Attribute] = ()) -> Removal:
            return choose(
                space,
                groups,
                asked.sparsity,
                importance,
                round_to=asked.round_to,
                excluded=asked.excluded,
                pinned=pinned,
            )

        removal = decide()
        described = tuple(_described(space, removal, groups, asked))
        rescaled = frozenset(norm.module for norm in find_rms_norms(removal, model))
    finally:
        put_back()
    return Plan(
        model, example_inputs, removal, decide, make_plan(removal), described, dropped, tuple(stacks), rescaled, trace
    )


def _described(
    space: PruningSpace, removal: Removal, groups: Sequence[Group], asked: Allocation
) -> Iterator[GroupPlan]:
    why = {layers: item.why for item in removal.restored for layers in [item.layers]}
    for group in groups:
        cell = space.sizing.cells[space.sizing.members(group.variable)[0]]
        kept = max(
            int((~removal.gone[space.sizing.cells[member]]).sum()) for member in space.sizing.members(group.variable)
        )
        yield GroupPlan(
            kind=group.kind,
            name=group.name,
            layers=tuple(group.layers),
            members=tuple(group.members),
            rows=group.rows,
            before=len(cell),
            after=kept,
            asked=asked.target(group),
            why=why.get(tuple(group.layers) or (group.name,)) if kept > asked.target(group) else None,
        )
