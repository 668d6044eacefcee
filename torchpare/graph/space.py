"""What can be removed from a model: the answer of the analysis, asked by pruners, plans and people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from torchpare.errors import MaskError
from torchpare.graph.attention_scale import Sink
from torchpare.graph.capture import capture
from torchpare.graph.flow import Equation, Flow, Note, Role
from torchpare.graph.labels import LabelArray
from torchpare.graph.program import Op, Program, Scale, Value
from torchpare.graph.recorder import Outputs
from torchpare.graph.removal import OnConflict, Removal, decide_removal, group_masks
from torchpare.graph.rules import apply_rules
from torchpare.graph.sizes import Dim, dims
from torchpare.graph.sizing import Sizing
from torchpare.graph.zeros import silent_values, steady_values
from torchpare.types import Masks

__all__ = ["Channels", "PruningSpace", "analyse"]


@dataclass(frozen=True)
class Channels:
    """The output channels of one layer.

    Attributes:
        classes: ``(O,)`` ids. Channels with equal ids live and die together, within a layer and across layers;
            id 0 can never be removed.
        cells: ``(O,)`` ids. Channels with equal ids belong to the same sets of channels throughout the model (one
            residual set, one group of a grouped convolution): removing equally many from each cell is always possible.
    """

    classes: NDArray[np.int64]
    cells: NDArray[np.int64]


class PruningSpace:
    """Which channels of a model hang together, which cannot be removed and why. Immutable.

    Made by `analyse`. Laws: equal classes are removed together or not at all; class 0 is never removed; removing
    nothing changes nothing.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.program: Program = flow.program
        self.equations: tuple[Equation, ...] = tuple(flow.equations)
        self.equal_rows: tuple[tuple[LabelArray, str], ...] = tuple(flow.equal_counts)
        """Arrays of shape (rows, n) whose rows must keep equally many, with the reason."""
        self.comparisons = {**flow.program.comparisons, **flow.comparisons}
        self.other_readers: tuple[LabelArray, ...] = tuple(flow.other_readers)
        self.levels: tuple[tuple[LabelArray, LabelArray], ...] = tuple(flow.levels)
        """Pairs of (labels of an axis, labels of an axis inside it)."""
        self.scale_makers: Sequence[tuple[Scale, list[Sink]]] = tuple(flow.scale_makers)
        """Powers of sizes that values are multiplied with, each with the parameters that make those values."""
        self.aligned: tuple[tuple[LabelArray, int], ...] = tuple(flow.aligned)
        """Labels of axes whose length must stay a multiple of a number, or an operator refuses them."""
        self.notes: tuple[Note, ...] = tuple(flow.notes)
        self.unknown: Mapping[str, str] = dict(flow.unknown)
        """Operators without a rule, each with the first place where it was met."""
        self.followed: Mapping[str, str] = dict(flow.followed)
        """Modules that the recorded run did not reach, each with the sibling in step with which it shrinks."""
        paths = tuple(f"{path}." for path in flow.followed)
        self.unreached: tuple[str, ...] = tuple(n for n in flow.program.unreached() if not n.startswith(paths))
        """Parameters that the recorded run did not touch (auxiliary heads in evaluation mode, for example)."""
        self.values: Mapping[str, Value] = {name: value for value in self.program.values for name in value.names}
        """Parameters and buffers by qualified name, every alias of a tied one included."""

    # -- what people and pruners ask ---------------------------------------------------------------------------------

    @cached_property
    def literals(self) -> tuple[tuple[int, str], ...]:
        """Sizes that are written as numbers in the model's source where channels lie, with where."""
        flow = self._flow
        if flow.literals and not flow.free_literals:  # what the first of them holds, the next would not meet
            flow = apply_rules(self.program, free_literals=True)
        return tuple(flow.literals)

    @cached_property
    def producers(self) -> tuple[str, ...]:
        """Qualified names of the layers that make channels, in the order of the model."""
        found = {self.layer_of(uid): None for uid in sorted(self._flow.channels) if self._is_weight(uid)}
        return tuple(found)

    def channels(self, layer: str) -> Channels:
        """The output channels of a layer.

        Raises:
            MaskError: if the layer makes no channels, or was not reached by the dummy input.
        """
        classes = self.classes(layer)
        return Channels(classes, self._cells(classes))

    def classes(self, layer: str) -> NDArray[np.int64]:
        """The classes of the output channels of a layer alone: see `channels`."""
        return self.canonical(self._channel_labels(layer))

    def reads(self, layer: str) -> NDArray[np.int64]:
        """The ids of the channels that a layer's weight reads, each once, without 0."""
        ids = [
            self.canonical(role.labels).ravel()
            for (uid, _), role in self.roles.items()
            if role.kind == "reads" and self.layer_of(uid) == layer
        ]
        return np.setdiff1d(np.concatenate(ids), [0]) if ids else np.zeros(0, dtype=np.int64)

    def frozen(self, layer: str) -> str | None:
        """Why some or all of a layer's channels cannot be removed; None where all of them can."""
        labels = self._channel_labels(layer)
        if self.canonical(labels).all():
            return None
        return "; ".join(self._flow.store.reasons(labels)) or "an axis of fixed size"

    def decide(
        self,
        masks: Masks,
        *,
        on_conflict: OnConflict = "reconcile",
        weights: Mapping[str, Tensor] | None = None,
        excluded: Collection[int] = (),
    ) -> Removal:
        """Which channels go, given masks: see `torchpare.graph.removal.decide_removal`."""
        return decide_removal(self, masks, on_conflict=on_conflict, weights=weights, excluded=excluded)

    def group_masks(
        self, masks: Masks, *, on_conflict: OnConflict = "reconcile", weights: Mapping[str, Tensor] | None = None
    ) -> Masks:
        """``masks``, completed over the groups of what will leave: see `torchpare.graph.removal.group_masks`."""
        removal = self.decide(masks, on_conflict=on_conflict, weights=weights)
        return group_masks(removal, masks, unmask_returned=True)

    @cached_property
    def silent(self) -> set[int]:
        """Uids of the values that are zero in every channel that goes."""
        return silent_values(self._flow)

    @cached_property
    def silent_readers(self) -> set[tuple[int, int]]:
        """The (parameter uid, axis) that read nothing but zeros from channels that go: see `torchpare.graph.zeros`."""
        silent = self.silent
        makers = {place for place, role in self.roles.items() if role.kind == "makes"}  # tied: read here, made there
        used = Counter(
            uid
            for op in self.program.ops
            for uid in {self.parameter_of(ref.uid) for ref in op.inputs if self._ends(op)}
        )
        sources = self._flow.sources.items()
        return self._flow.unmasked | {  # one that is used as a value elsewhere (a first state) makes channels there
            place
            for place, read in sources
            if silent.issuperset(read) and place not in makers and used[place[0]] <= len(read)
        }

    def _ends(self, op: Op) -> bool:
        """Whether an operator makes something of its inputs, and does not only show them otherwise."""
        return not all(self.shows_parameter(uid) for uid in op.outputs)

    @cached_property
    def steady_readers(self) -> frozenset[tuple[int, int]]:
        """The (parameter uid, axis) that read nothing but constants from channels whose filters are masked."""
        steady = steady_values(self._flow, self.silent)
        return frozenset(place for place, sources in self._flow.sources.items() if steady.issuperset(sources))

    # -- what plans ask ----------------------------------------------------------------------------------------------

    def canonical(self, labels: LabelArray) -> LabelArray:
        """Class ids of an array of labels; 0 where nothing can be removed."""
        return self._classes[labels]

    @cached_property
    def _classes(self) -> NDArray[np.int64]:
        """The class of every label: looked up many times, so worked out once."""
        return self._flow.store.canonical(np.arange(len(self._flow.store)))

    def axes(self, uid: int) -> list[LabelArray]:
        """The label arrays of a value: one for each axis, of the value's rank, size 1 where nothing varies."""
        return self._flow.labels(uid)

    def atoms(self, label: int) -> frozenset[int]:
        """The free decisions, any of which removes this class."""
        return self._flow.store.atoms(label)

    @cached_property
    def composites(self) -> tuple[LabelArray, LabelArray]:
        """Every composite class paired with each of its atoms."""
        return self._flow.store.composites(self._classes)

    @cached_property
    def size(self) -> int:
        """One more than the largest class id."""
        return len(self._flow.store)

    @property
    def roles(self) -> Mapping[tuple[int, int], Role]:
        """The role of each (parameter uid, axis) that makes or reads channels."""
        return self._flow.roles

    def shows_parameter(self, uid: int) -> bool:
        """Whether a value is a parameter, or one seen otherwise (transposed, expanded)."""
        return uid in self._flow.origin

    def parameter_of(self, uid: int) -> int | None:
        """The parameter that a value is, or shows with its axes permuted; None for other values."""
        origin = self._flow.origin.get(uid)
        return None if origin is None else origin[0]

    def layer_of(self, uid: int) -> str:
        """The first name of the module that owns a parameter or buffer."""
        return self.program.values[uid].names[0].rpartition(".")[0]

    @cached_property
    def sizing(self) -> Sizing:
        """The numbers that a removal has to get right: see `torchpare.graph.sizing`."""
        return Sizing(self)

    def first_row(self, dim: Dim) -> LabelArray:
        """The labels of one axis of a value, at the first index of the axes on which they depend."""
        size = self.program.values[dim.uid].shape[dim.axis]
        rows = _rows_of(self._flow.labels(dim.uid)[dim.axis], dim.axis, size)
        return rows[0] if len(rows) else np.zeros(size, dtype=np.int64)  # a value without entries has no first index

    def all_rows(self) -> Iterator[LabelArray]:
        """Every row whose length a removal may change, as arrays of shape (rows, n)."""
        for value in self.program.values:
            if value.kind in ("parameter", "buffer"):
                for axis, labels in enumerate(self._flow.labels(value.uid)):
                    yield _rows_of(labels, axis, labels.shape[axis])
        for rows, _ in self.equal_rows:
            yield rows
        for equation in self.equations:
            yield equation.labels[None]
            for dim in dims(equation.expr):
                yield self.first_row(dim)[None]
        for scale, _ in self.scale_makers:
            for dim in dims(scale.size):
                yield self.first_row(dim)[None]
        for left, right, _ in self.comparisons:
            for dim in (*dims(left), *dims(right)):
                yield self.first_row(dim)[None]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _channel_labels(self, layer: str) -> LabelArray:
        if layer in self._made_by:
            return self._made_by[layer]
        reached = f"the layers that make channels are {', '.join(self.producers) or 'none'}"
        message = f"layer '{layer}' makes no channels that the dummy input reached; {reached}"
        raise MaskError(message)

    @cached_property
    def _made_by(self) -> dict[str, LabelArray]:
        """The labels of the channels that each layer makes."""
        found: dict[str, LabelArray] = {}
        for uid, labels in self._flow.channels.items():
            for name in self.program.values[uid].names if self._is_weight(uid) else ():
                found.setdefault(name.rpartition(".")[0], labels)
        return found

    def _is_weight(self, uid: int) -> bool:
        return len(self.program.values[uid].shape) > 1

    def _cells(self, classes: LabelArray) -> NDArray[np.int64]:
        """By channel its cell, counted from 1; a composite belongs to the cells of all its atoms, as one number."""
        found = np.zeros(len(classes), dtype=np.int64)
        for cells, places in self.sizing.cells_among(classes):
            if cells:
                found[places] = hash(tuple(sorted(set(cells)))) & 0x7FFFFFFFFFFFFFFF or 1
        return found


def analyse(
    model: nn.Module,
    dummy_input: Any,
    *,
    outputs: Outputs | None = None,
    device: str | None = None,
    free_literals: bool = False,
) -> PruningSpace:
    """Find out which channels of ``model`` hang together. The model is not changed.

    Args:
        model: any module, with or without masks.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments; only shapes and types
            matter where the model can run on the meta device.
        outputs: picks from what the model returns what must keep its shape, such as ``lambda output: output.logits``;
            everything must, if it is not given.
        device: ``"meta"`` or ``"cpu"``, to record there and nowhere else.
        free_literals: let channels go although a size is written as a number in the code, which then cannot run.

    Raises:
        CaptureError: if the model cannot be run on the dummy input.
    """
    return PruningSpace(
        apply_rules(capture(model, dummy_input, outputs=outputs, device=device), free_literals=free_literals)
    )


def _rows_of(labels: LabelArray, axis: int, size: int) -> LabelArray:
    """The label array of one axis as rows along it."""
    if labels.size == labels.shape[axis]:
        return np.broadcast_to(labels.reshape(1, -1), (1, size))
    rows = np.moveaxis(labels, axis, -1)
    count = int(np.prod(rows.shape[:-1]))
    return np.broadcast_to(rows.reshape(count, rows.shape[-1]), (count, size))
