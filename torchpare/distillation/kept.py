"""Which channels of the teacher's layers a pruned student still has.

A shrink records, for each parameter, which indices of the original model stayed. What a layer returns is no parameter:
so the teacher is analysed once, which tells the channels of its parameters and of its layers' outputs by one and the
same labels, and what is gone from the parameters is gone from the outputs. Masks that are still attached to a student
are asked what would go if it were shrunk now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchpare.attach import CompressedLayer, masks_of
from torchpare.attach.layer import masks_of_layer
from torchpare.distillation.features import plain_model
from torchpare.distillation.record import relative_kept, teacher_name
from torchpare.errors import CaptureError, ConfigError
from torchpare.files.dropped import STRUCTURE
from torchpare.graph import PruningSpace, analyse
from torchpare.graph.removal import spread

__all__ = ["KeptOutputs", "dropped_from"]

Axes = Sequence[Tensor | None]
"""Kept indices for each axis of a tensor; None where all are kept."""


@dataclass(frozen=True)
class _Gone:
    """A model's channels, and which of them are gone."""

    space: PruningSpace
    gone: NDArray[np.bool_]

    def axes(self, layer: str, number: int, whose: str) -> Axes:
        """Kept indices of the axes of a tensor that a layer returned."""
        uids = [uid for path, uid in self.space.program.module_outputs if path == layer]
        if number >= len(uids):
            raise ConfigError(
                f"the {whose}'s layer '{layer}' returned {len(uids)} tensors when its channels were followed, in "
                f"evaluation mode, and no tensor {number} that could be matched"
            )
        value = self.space.program.values[uids[number]]
        kept = [~self.gone[self.space.canonical(labels)] for labels in self.space.axes(value.uid)]
        whole = [flags.all() or flags.size == flags.shape[axis] for axis, flags in enumerate(kept)]
        found: list[Tensor | None] = []
        for axis, flags in enumerate(kept):
            rows = flags
            for other, its in enumerate(kept):  # what is kept may differ in places that are gone anyway
                if other != axis and whole[other] and its.size > 1 and rows.shape[other] > 1:
                    rows = rows.compress(its.reshape(-1), axis=other)
            rows = np.moveaxis(rows, axis, -1).reshape(-1, rows.shape[axis])
            if (rows != rows[:1]).any():
                raise ConfigError(f"which entries of axis {axis} of the {whose}'s '{layer}' are kept depends on other "
                                  "axes, so they cannot be matched; compare a layer before or behind it")  # fmt: skip
            found.append(None if rows.all() else torch.from_numpy(np.flatnonzero(rows[0])))
        return found


class KeptOutputs:
    """Which indices of what the teacher's layers return are still there in what the student's return.

    Nothing is analysed before it is asked for, and nothing at all where the student was neither shrunk nor masked.
    What has changed since (masks of a pruner that takes its time, a shrink) is seen at the next question.

    Args:
        student: a pruned model: shrunk in place, loaded by `torchpare.load`, or with masks attached.
        teacher: the model that it was pruned from; it may be a shrunk one itself.
        inputs: what both accept: a tensor, a tuple of positional arguments, or a dict of keyword arguments. Only shapes
            matter, as for `torchpare.ModelSpeedup`.

    Example:
        >>> from torch import nn, ones, tensor
        >>> import copy
        >>> from torchpare import ModelSpeedup
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> teacher = copy.deepcopy(model)
        >>> masks = {"0": {"weight": tensor([True, False, True, True]).view(4, 1, 1, 1)}}
        >>> report = ModelSpeedup(model, ones(1, 3, 8, 8), masks).speedup_model()
        >>> KeptOutputs(model, teacher, ones(1, 3, 8, 8)).indices("1", dim=1)
        tensor([0, 2, 3])
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, inputs: Any) -> None:
        self.student, self.teacher, self.inputs = plain_model(student), plain_model(teacher), inputs
        self._teacher_space: PruningSpace | None = None
        self._student_space: PruningSpace | None = None
        self._record: Any = None
        self._shrunk: _Gone | None = None
        self._masks: list[tuple[Tensor, int]] = []
        self._masked: _Gone | None = None

    def indices(self, layer: str, dim: int) -> Tensor:
        """The teacher's indices that are kept along one axis of what a layer of the student returns first.

        Args:
            layer: the student's name of the layer.
            dim: the axis: 1 for channels of pictures, -1 for features of tokens.

        Raises:
            ConfigError: the layer is unknown or was not reached, or its kept indices cannot be told.
            CaptureError: a model could not be run on the inputs.
        """
        for model, whose, name in ((self.student, "student", layer), (self.teacher, "teacher", self.name_of(layer))):
            if name not in dict(model.named_modules(remove_duplicate=False)):
                raise ConfigError(f"the {whose} has no layer {name!r}")
        sizes = self._space_of_teacher().program
        uids = [uid for path, uid in sizes.module_outputs if path == first_name(self.teacher, self.name_of(layer))]
        if not uids:
            raise ConfigError(f"the inputs do not reach the teacher's layer {self.name_of(layer)!r}")
        shape = sizes.values[uids[0]].shape
        if not -len(shape) <= dim < len(shape):
            raise ConfigError(f"layer {layer!r} returns {len(shape)} axes, so there is no axis {dim}")
        own, its = self.axes(layer, self.name_of(layer), 0)
        kept = None if its is None else its[dim]
        kept = torch.arange(shape[dim]) if kept is None else kept
        picked = None if own is None else own[dim]
        return kept if picked is None else kept[picked]

    def name_of(self, layer: str) -> str:
        """The teacher's name of a layer of the student: another one where blocks were dropped."""
        return teacher_name(layer, _record_of(self.student), _record_of(self.teacher))

    def axes(self, layer: str, teacher_layer: str, number: int) -> tuple[Axes | None, Axes | None]:
        """What to take of a tensor of the student, and of one of the teacher, so that both have the same channels.

        The student's is first to be taken from its own tensor, and then from the teacher's too, behind the teacher's.
        None stands for everything.

        Args:
            layer: the student's layer.
            teacher_layer: the teacher's.
            number: which of the tensors that the layer returned, over all of its calls.

        Raises:
            ConfigError: the record does not fit the teacher, or kept indices cannot be told.
            CaptureError: a model could not be run on the inputs.
        """
        masked, shrunk = self._of_masks(), self._of_record()
        own = None if masked is None else masked.axes(first_name(self.student, layer), number, "student")
        its = None if shrunk is None else shrunk.axes(first_name(self.teacher, teacher_layer), number, "teacher")
        return own, its

    def _of_record(self) -> _Gone | None:
        record = _record_of(self.student)
        if record is _record_of(self.teacher):
            return None
        if self._shrunk is None or record is not self._record:
            self._shrunk = self._gone_from_teacher(relative_kept(record, _record_of(self.teacher)), record)
            self._record, self._student_space = record, None
        return self._shrunk

    def _gone_from_teacher(self, kept: Mapping[str, Mapping[int, list[int]]], record: Any) -> _Gone:
        space = self._space_of_teacher()
        gone, stays = np.zeros(space.size, dtype=bool), np.zeros(space.size, dtype=bool)
        for name, axes in kept.items():
            if name not in space.values:
                if name in record["added_parameters"]:
                    continue
                raise ConfigError(f"the student was shrunk from a model with a parameter {name!r}, which the teacher "
                                  "lacks; the teacher must be the model before the shrink")  # fmt: skip
            value = space.values[name]
            for axis, indices in axes.items():
                known = axis < len(value.shape)
                size = value.shape[axis] if known else 0
                labels = space.canonical(space.axes(value.uid)[axis] if known else np.zeros(0, dtype=np.int64))
                if labels.size != size or max(indices, default=0) >= size:
                    raise ConfigError(f"of {name!r} the student keeps entries along axis {axis} that the teacher's, of "
                                      f"shape {value.shape}, does not have; the teacher must be the model before the "
                                      "shrink")  # fmt: skip
                lost = np.ones(size, dtype=bool)
                lost[indices] = False
                gone[labels.reshape(-1)[lost]] = True
                stays[labels.reshape(-1)[~lost]] = True
        gone = spread(space, _explained(space, gone, stays))
        if gone[0] or (gone & stays)[1:].any():
            raise ConfigError("the student's record of what was kept does not agree with how the teacher's channels "
                              "hang together; the teacher must be the model before the shrink")  # fmt: skip
        return _Gone(space, gone)

    def _of_masks(self) -> _Gone | None:
        layers = [module for module in self.student.modules() if isinstance(module, CompressedLayer)]
        masks = [mask for layer in layers for mask in masks_of_layer(layer).values()]
        if not masks:
            self._masks, self._masked = [], None
            return None
        now = [(mask, mask._version) for mask in masks]  # noqa: SLF001 - counts writes, so that nothing is compared
        same = len(now) == len(self._masks) and all(
            mask is other and version == before
            for (mask, version), (other, before) in zip(now, self._masks, strict=True)
        )
        if not same or self._masked is None:
            space = self._space_of_student()
            weights = dict(self.student.named_parameters(remove_duplicate=False))
            self._masked = _Gone(space, space.decide(masks_of(self.student), weights=weights).gone)
            self._masks = now
        return self._masked

    def _space_of_teacher(self) -> PruningSpace:
        if self._teacher_space is None:
            self._teacher_space = self._analysed(self.teacher, "teacher", outputs=lambda _: ())
        return self._teacher_space

    def _space_of_student(self) -> PruningSpace:
        if self._student_space is None:
            self._student_space = self._analysed(self.student, "student", outputs=_told_outside)
        return self._student_space

    def _analysed(self, model: nn.Module, whose: str, outputs: Any) -> PruningSpace:
        try:
            return analyse(model, self.inputs, outputs=outputs)
        except CaptureError as error:
            raise CaptureError(f"the {whose}'s channels cannot be followed: {error}") from error


def _explained(space: PruningSpace, gone: NDArray[np.bool_], stays: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """By class whether it is gone, of atoms too that no parameter has an axis of: heads of an attention, say.

    What is recorded of a projection are channels, each a slot of a head. The fewest atoms that explain why these are
    gone are gone: a head, and not every slot of it.
    """
    whole, part = space.composites
    told = gone[whole] | stays[whole]
    whole, part = whole[told], part[told]
    of_atom = np.bincount(part, minlength=space.size)
    gone_of_atom = np.bincount(part[gone[whole]], minlength=space.size)
    possible = np.flatnonzero((of_atom > 0) & (of_atom == gone_of_atom) & ~stays)
    gone = gone.copy()
    unexplained = gone[whole] & ~np.isin(whole, whole[gone[part]])
    for atom in possible[np.argsort(-of_atom[possible], kind="stable")].tolist():
        its = np.isin(whole, whole[part == atom])
        if (unexplained & its).any():
            gone[atom] = True
            unexplained &= ~its
    return gone


def first_name(model: nn.Module, layer: str) -> str:
    """The name under which a layer is known that is registered under several."""
    module = model.get_submodule(layer)
    return next(name for name, other in model.named_modules() if other is module)


def dropped_from(model: nn.Module) -> Any:
    """The blocks that shrinks took out of a model, as its record tells."""
    return (_record_of(model) or {}).get("dropped", {})


def _record_of(model: nn.Module) -> Any:
    return getattr(model, STRUCTURE, None)


def _told_outside(output: Any) -> Any:
    """What of a model's outputs others rely on: hidden states beside the logits may lose what was pruned."""
    logits = output.get("logits") if isinstance(output, Mapping) else None
    return output if logits is None else logits
