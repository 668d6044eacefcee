"""``plan``: what would go, what would stay and why, before anything is touched; and ``apply``, which does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property, partial
from math import prod
from typing import Any, Literal

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from torchpare.attach import attach_masks
from torchpare.config import read_entries
from torchpare.config.structures import allocate
from torchpare.errors import ConfigError, ProofError, ShrinkError
from torchpare.graph import PruningSpace, Removal, analyse, group_masks
from torchpare.graph.choice import atom_scores, choose
from torchpare.graph.costs import macs_of
from torchpare.graph.garbage import paused_garbage_collection
from torchpare.graph.sizes import Attribute
from torchpare.graph.structures import EXPERTS, LAYERS, groups_of
from torchpare.layers.blocks import drop_blocks
from torchpare.layers.experts import Dropping, drop_experts
from torchpare.numerics.shards import refuse_sharded
from torchpare.speedup.allocation import allocate_depth, allocate_experts, said_elsewhere
from torchpare.speedup.depth import Stack, choose_blocks, find_stacks, told_of_blocks, without_blocks
from torchpare.speedup.experts import Routed, can_run_without, choose_experts, find_routed, without_experts
from torchpare.speedup.groups import GroupPlan, describe
from torchpare.speedup.lost_numbers import LostSizeError
from torchpare.speedup.model_speedup import ModelSpeedup
from torchpare.speedup.plan_view import as_text, lines_of, table_of
from torchpare.speedup.report import SpeedupReport
from torchpare.speedup.rms_norms import find_rms_norms
from torchpare.speedup.shrink_plan import ShrinkPlan, make_plan
from torchpare.speedup.traced import traced_model
from torchpare.types import Masks

__all__ = ["GroupPlan", "Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """What `plan` found; print it, read its fields, or `apply` it.

    Attributes:
        model: the model it was made for, untouched.
        example_inputs: what it was traced on.
        removal: the decision.
        decide: decides anew, with some attributes of modules and some variables of the sizing kept as they are.
        shrink: what it means for each tensor and attribute.
        describe: tells of the groups when they are asked for.
    """

    model: nn.Module
    example_inputs: Any
    removal: Removal
    decide: Callable[[Collection[Attribute], Collection[int]], Removal] = field(repr=False, compare=False)
    shrink: ShrinkPlan
    describe: Callable[[], Iterable[GroupPlan]] = field(repr=False, compare=False)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """By path of a stack, the blocks that go. Names and parameters elsewhere are those of the model without them."""
    stacks: tuple[Stack, ...] = ()
    experts: dict[str, list[int]] = field(default_factory=dict)
    """By path of the experts of a mixture behind a router, those that go, in the model without the blocks that go."""
    routed: tuple[Routed, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The shapes of the model's parameters, of tied ones once."""
    rescaled: frozenset[str] = frozenset()
    """RMS norms that will make up for the channels they lose."""
    traced: bool = False
    """Whether sizes written as numbers were let go, so that only `graph` gives a working model."""

    @cached_property
    def groups(self) -> tuple[GroupPlan, ...]:
        """Every group from which something can go."""
        return tuple(self.describe())

    @property
    def space(self) -> PruningSpace:
        """The analysis behind it."""
        return self.removal.space

    @property
    def without(self) -> tuple[str, ...]:
        """Whole blocks and experts that go, by their paths."""
        both = (*self.dropped.items(), *self.experts.items())
        return tuple(f"{path}.{at}" for path, indices in both for at in indices)

    def masks(self) -> Masks:
        """The masks under which the model computes what the small one will."""
        return group_masks(self.removal, {})

    def mask(self) -> nn.Module:
        """Mask what would go, and return the model: fine-tune it like any other, then `apply`.

        Raises:
            ShrinkError: whole blocks or experts would go, which no mask can say: apply such a plan first.
        """
        if self.dropped or self.experts:
            raise ShrinkError(
                "no mask can take whole blocks out, nor experts behind a router: apply a plan for the structures "
                "'layers' and 'experts' first"
            )
        attach_masks(self.model, self.masks())
        return self.model

    def apply(
        self,
        *,
        verify: bool = True,
        tolerance: float = 1e-10,
        offload_folder: str | os.PathLike[str] | None = None,
    ) -> SpeedupReport:
        """Shrink the model in place and prove it; on any error it is as it was.

        Args:
            verify: False skips the proof.
            tolerance: the largest allowed difference, relative to the output's range.
            offload_folder: where the dense weights wait, in files of their own, until it is done, so that the small
                model needs no memory on top; they come back from there, should anything fail. None holds them in
                memory, where whole blocks and experts that go wait in any case.

        A number that the model's code uses in a way that nobody can see (through numpy, a scripted function, a tensor)
        shows when the small model is first run: then the module's numbers stay as they are, with whatever depends on
        them, and the rest is tried again. The same goes for the sizes of axes that the code computes with unseen
        (``1.0 / x.shape[-1]``), which show in the proof.

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
        self._check_model()
        proof = self.example_inputs if verify else None
        with (
            without_blocks(self.model, self.dropped, proof, tolerance),
            without_experts(self.model, self.routed, self.experts, proof, tolerance),
        ):
            removal, pinned, counted = self.removal, set[Attribute](), set[int]()
            while True:
                try:
                    report = ModelSpeedup.of_removal(
                        self.model,
                        self.example_inputs,
                        removal,
                        tolerance=tolerance,
                        verify=verify,
                        offload_folder=offload_folder,
                    )
                    return replace(report, parameters_before=self.parameters[0], without=self.without)
                except ShrinkError as error:
                    more = _suspects(error, removal) - pinned
                    numbers = error.variables - counted if isinstance(error, LostSizeError) and not more else set[int]()
                    if not more and not numbers:
                        raise
                    pinned |= more
                    counted |= numbers
                    removal = self.decide(pinned, counted)

    def _check_model(self) -> None:
        if _shapes(self.model) != self.shapes:
            raise ShrinkError(
                "the model is no longer the one this plan was made for: make a new plan of it as it is now"
            )
        on_meta = [name for name, parameter in self.model.named_parameters() if parameter.is_meta]
        if on_meta:
            raise ShrinkError(
                f"there are no weights to shrink: {on_meta[0]!r} is on the meta device. A plan needs none, but apply() "
                "does: load the weights, and plan again"
            )

    def graph(self, *, tolerance: float = 1e-10) -> fx.GraphModule:
        """The small model as a graph of operators; the model itself is not changed.

        It takes the tensors of the example inputs in order, in their shapes, and returns the tensors that the model
        returns. Plan with ``literals="trace"`` for it. Channels that norms are taken over fall under the same rule as
        in `apply`; it is proved in float64 against the masked model.

        Raises:
            ShrinkError: it was not planned with ``literals="trace"``, or an operator cannot be rewritten.
            ProofError: the graph computes something else than the masked model.
        """
        if not self.traced or self.dropped or self.experts:
            raise ShrinkError(
                "a graph is made of a plan with literals='trace' and without the structures 'layers' and 'experts'"
            )
        return traced_model(self.model, self.example_inputs, self.shrink, self.masks(), tolerance)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data."""
        return {
            "groups": [asdict(group) for group in self.groups],
            "dropped": dict(self.dropped),
            "experts": dict(self.experts),
            "frozen": self.frozen,
            "changes": list(self.changes),
            "literals": [list(literal) for literal in self.space.literals],
            "parameters": list(self.parameters),
            "macs": list(self.macs),
            **self.shrink.describe(),
        }

    def __str__(self) -> str:
        return as_text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield table_of(self)
        yield from lines_of(self)

    @property
    def parameters(self) -> tuple[int, int]:
        """How many parameters there are, and would be."""
        uids = {value.uid for value in self.space.values.values() if value.kind == "parameter"}
        return sum(map(prod, self.shapes.values())), sum(prod(self.removal.shape(uid)) for uid in uids)

    @property
    def frozen(self) -> dict[str, str]:
        """Layers of which some channels can never go, each with the reason."""
        found = {layer: self.space.frozen(layer) for layer in self.space.producers}
        return {layer: why for layer, why in found.items() if why}

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates of one run on the example inputs, now and after."""
        ops, values = self.space.program.ops, self.space.program.values
        return macs_of(ops, lambda uid: values[uid].shape), macs_of(ops, self.removal.shape)

    @property
    def changes(self) -> tuple[str, ...]:
        """Where the function will change by nature, as in the report of a shrink."""
        notes = (note for note in self.space.notes if note.module not in self.rescaled)
        touched = (note for note in notes if self.removal.lost(note.labels).any())
        return tuple(sorted({f"{note.kind} in {note.module or 'the model'} ({note.site})" for note in touched}))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters; of what a lazy layer has still to make, none."""
    return {name: () if is_lazy(parameter) else tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _check_scores(scores: Mapping[str, Tensor], model: nn.Module) -> None:
    if not isinstance(scores, Mapping):
        raise ConfigError(f"scores is a {type(scores).__name__}; it is a dict of tensors by parameter name")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, score in scores.items():
        if name not in parameters:
            near = get_close_matches(name, parameters, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"scores[{name!r}]: {type(model).__name__} has no such parameter{hint}")
        if not isinstance(score, Tensor) or score.is_complex():
            given = f"tensor of {score.dtype}" if isinstance(score, Tensor) else type(score).__name__
            raise ConfigError(f"scores[{name!r}] is a {given}; it is a tensor of real numbers")
        expected = tuple(parameters[name].shape)
        if tuple(score.shape) != expected:
            raise ConfigError(f"scores[{name!r}] is of shape {tuple(score.shape)}, and the parameter of {expected}")
        if not bool(torch.isfinite(score).all()):
            raise ConfigError(f"scores[{name!r}] has entries that are not finite: no channel can be judged by them")


def _suspects(error: ShrinkError, removal: Removal) -> set[Attribute]:
    """The attributes that were changed where the small model failed to run; none where it ran and differed."""
    cause = error.__cause__
    if isinstance(error, ProofError) or cause is None or not hasattr(cause, "torchpare_module"):
        return set()
    changed = {a for a, value in removal.attributes.items() if value != removal.space.program.attributes[a]}
    path: str = getattr(cause, "torchpare_module")  # noqa: B009 - an exception that carries a note
    while True:  # the innermost module around the failure that had a number changed
        near = {a for a in changed if a.module == path or a.module.startswith(f"{path}." if path else "")}
        if near or not path:
            return near or changed
        path = path.rpartition(".")[0]


@paused_garbage_collection()
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
            it says, or let them go and ``"trace"`` the model: its Python code cannot run any more then, and
            `Plan.graph` gives the small model as a graph.

    Raises:
        ConfigError: an entry cannot be used, or reaches nothing.
        CaptureError: the model cannot be run on the example inputs.
        ShrinkError: it cannot be run without the blocks or experts that would go.
    """
    if literals not in ("keep", "trace"):
        raise ConfigError(f"literals is {literals!r}; it is 'keep' or 'trace'")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ConfigError(
            f"{type(model).__name__} wraps the model for several devices: plan for what it wraps, model.module"
        )
    refuse_sharded(model, "cannot be planned for", ConfigError)
    _check_scores({} if scores is None else scores, model)
    entries = read_entries(config_list)
    deep = any(LAYERS in (entry.structures or ()) for entry in entries)
    stacks = find_stacks(model, example_inputs) if deep else []
    dropped = choose_blocks(stacks, allocate_depth(entries, stacks, model)) if deep else {}
    shapes = _shapes(model)
    put_back = drop_blocks(model, dropped)
    less = Dropping()
    try:
        routed = find_routed(model, example_inputs) if any(EXPERTS in (e.structures or ()) for e in entries) else []
        experts = choose_experts(routed, allocate_experts(entries, routed, model))
        less = drop_experts(model, [item.mixture for item in routed], experts)
        trace = literals == "trace"
        device = "cpu" if trace else None
        with can_run_without(experts), told_of_blocks(dropped, model):
            space = analyse(model, example_inputs, outputs=outputs, device=device, free_literals=trace)
        groups = groups_of(space)
        asked = allocate(entries, groups, model, said_elsewhere(entries, routed, model))
        weights = dict(model.named_parameters(remove_duplicate=False)) if scores is None else scores
        importance = atom_scores(space, weights)

        def decide(pinned: Collection[Attribute] = (), counted: Collection[int] = ()) -> Removal:
            return choose(
                space,
                groups,
                asked.sparsity,
                importance,
                round_to=asked.round_to,
                excluded={*asked.excluded, *counted},
                pinned=pinned,
            )

        removal = decide()
        rescaled = frozenset(norm.module for norm in find_rms_norms(removal, model))
    finally:
        less.put_back()
        put_back()
    return Plan(
        model,
        example_inputs,
        removal,
        decide,
        make_plan(removal),
        partial(describe, space, removal, groups, asked),
        dropped,
        tuple(stacks),
        experts,
        tuple(routed),
        shapes,
        rescaled,
        trace,
    )
