"""Which channels of the teacher's layers a pruned student still has.

A shrink records, for each parameter, which indices of the original model stayed. What a layer returns is no parameter:
so the teacher is analysed once, which tells the channels of its parameters and of its layers' outputs by one and the
same labels, and what is gone from the parameters is gone from the outputs. Masks that are still attached to a student
are asked what would go if it were shrunk now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import CompressedLayer, masks_of
from torchpare.attach.layer import masks_of_layer
from torchpare.distillation.features import plain_model
from torchpare.distillation.gone import Axes, Gone, first_name, gone_by_record
from torchpare.distillation.record import relative_kept, teacher_name
from torchpare.errors import CaptureError, ConfigError
from torchpare.files.dropped import STRUCTURE
from torchpare.graph import PruningSpace, analyse

__all__ = ["KeptOutputs", "dropped_from"]


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
        self._record: Any = _record_of(self.teacher)  # of a student that has this one too, nothing is gone
        self._shrunk: Gone | None = None
        self._masks: list[tuple[Tensor, int]] = []
        self._masked: Gone | None = None

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

        The student's is first to be taken from its own tensor, and then from the teacher's too, after the teacher's.
        None stands for everything.

        Args:
            layer: the student's layer.
            teacher_layer: the teacher's.
            number: which of the tensors that the layer returned, over all of its calls.

        Raises:
            ConfigError: the record does not fit the teacher, or kept indices cannot be told.
            CaptureError: a model could not be run on the inputs.
        """
        shrunk, masked = self._of_record(), self._of_masks()  # in this order: a shrink ends what was known of masks
        own = None if masked is None else masked.axes(layer, number)
        its = None if shrunk is None else shrunk.axes(teacher_layer, number)
        return own, its

    def _of_record(self) -> Gone | None:
        record, other = _record_of(self.student), _record_of(self.teacher)
        if record is not self._record:
            self._record, self._student_space, self._masks = record, None, []
            self._shrunk = None
            if record != other:
                kept = relative_kept(record, other)
                added = (record or {}).get("added_parameters", ())
                self._shrunk = gone_by_record(self.teacher, self._space_of_teacher(), kept, added)
        return self._shrunk

    def _of_masks(self) -> Gone | None:
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
            self._masked = Gone(
                self.student, "student", space, space.decide(masks_of(self.student), weights=weights).gone
            )
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


def dropped_from(model: nn.Module) -> Any:
    """The blocks that shrinks took out of a model, as its record tells."""
    return (_record_of(model) or {}).get("dropped", {})


def _record_of(model: nn.Module) -> Any:
    return getattr(model, STRUCTURE, None)


def _told_outside(output: Any) -> Any:
    """What of a model's outputs others rely on: hidden states beside the logits may lose what was pruned."""
    logits = output.get("logits") if isinstance(output, Mapping) else None
    return output if logits is None else logits
