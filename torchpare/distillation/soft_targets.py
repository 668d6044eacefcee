"""The teacher's classes, softened by a temperature, as targets of the student's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchpare.distillation.address import Address, pick
from torchpare.distillation.call import Call
from torchpare.distillation.term import Term, check_number
from torchpare.errors import ConfigError
from torchpare.numerics.distances import soft_target_loss

__all__ = ["SoftTargets", "logits_of"]


@dataclass(frozen=True)
class SoftTargets(Term):
    """The student's logits learn from the teacher's: ``T ** 2 * KL(teacher || student)``, both softened by ``T``.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Logits over a vocabulary are compared token by token. Only tokens count that ``attention_mask`` has (where it is
    among the inputs) and whose label is not ``ignore_index`` (where labels are).

    Args:
        temperature: above 0. The higher, the more the unlikely classes matter; 1 to 20 are usual.
        weight: times which the term counts.
        output: where the logits lie in what the model returns: a key or an index. If None, the tensor itself, the entry
            ``"logits"`` of a mapping, or else the first tensor.
        axis: the axis of the classes: -1, or 1 for pictures that are classified place by place.
        mask: the name of the input that tells tokens from padding, as for `FeatureTerm`; None counts all tokens. In a
            model with an encoder and a decoder ``"auto"`` is ``decoder_attention_mask``.
        labels: the name of the input that holds labels, one for each row of logits; looked at only for those that are
            ``ignore_index``. None if there is none.
        ignore_index: the label of what does not count.
        next_token: True for causal language models, whose logits at one token are about the next one: what counts is
            read one token later, and the last token does not.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    temperature: float = 4.0
    weight: float = 1.0
    output: str | int | None = None
    axis: int = -1
    mask: str | None = "auto"
    labels: str | None = "labels"
    ignore_index: int = -100
    next_token: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_number(self.temperature, "soft_targets: temperature", low=0, above=True)
        check_number(self.weight, "soft_targets: weight", low=0)
        kinds: dict[str, tuple[type, ...]] = {
            "output": (str, int, type(None)), "axis": (int,), "mask": (str, type(None)), "labels": (str, type(None)),
            "ignore_index": (int,), "next_token": (bool,),
        }  # fmt: skip
        for key, kind in kinds.items():
            value = getattr(self, key)
            if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind):
                words = " or ".join("None" if one is type(None) else one.__name__ for one in kind)
                raise ConfigError(f"soft_targets: {key} is {value!r}; it is {words}")

    def loss(self, student: Any, teacher: Any, call: Call) -> Tensor:
        """The term for what student and teacher returned.

        Raises:
            ConfigError: there are no logits, or their shapes differ.
        """
        own, its = logits_of(student, self.output, "student"), logits_of(teacher, self.output, "teacher")
        if own.shape != its.shape:
            raise ConfigError(
                f"soft_targets: the student's logits are {tuple(own.shape)} and the teacher's {tuple(its.shape)}; "
                "say with output= where in the output the logits lie, and do not prune classes"
            )
        if not -own.dim() <= self.axis < own.dim() or own.dim() < 2:
            raise ConfigError(f"soft_targets: logits of shape {tuple(own.shape)} have no classes along axis {self.axis}"
                              " of a batch")  # fmt: skip
        own, its = own.movedim(self.axis, -1), its.movedim(self.axis, -1)
        return soft_target_loss(own, its, self.temperature, self._counted(own, call))

    def _counted(self, logits: Tensor, call: Call) -> Tensor | None:
        rows = logits.shape[:-1]
        counted = None
        if self.axis in (-1, logits.dim() - 1) and logits.dim() == 3:
            counted = call.counted(self.mask, rows, "soft_targets", decoder=True)
        labels = call.arguments.get(self.labels) if self.labels is not None else None
        if isinstance(labels, Tensor) and labels.shape == rows and not labels.is_floating_point():
            told = labels != self.ignore_index
            counted = told if counted is None else counted & told
        if not self.next_token:
            return counted
        if len(rows) != 2:
            raise ConfigError(f"soft_targets: next_token is for logits (N, T, vocabulary), not {tuple(logits.shape)}")
        later = logits.new_ones(rows, dtype=torch.bool) if counted is None else counted.clone()
        later[:, :-1] = later[:, 1:].clone()
        later[:, -1] = False
        return later


def logits_of(output: Any, where: str | int | None, whose: str) -> Tensor:
    """The logits in what a model returned."""
    if where is None and isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        where = "logits"
    return pick(output, Address("", () if where is None else (where,)), whose)
