"""A student, its teachers, and what of both is compared: the loss that fine-tuning adds to its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from torchpare.distillation.address import Address
from torchpare.distillation.call import Call, read_call
from torchpare.distillation.features import Features, Watch, plain_model
from torchpare.distillation.kept import KeptOutputs, dropped_from
from torchpare.distillation.matching import Pair, matched, not_finite, widened
from torchpare.distillation.soft_targets import SoftTargets, logits_of
from torchpare.distillation.teacher import Teacher, dense_teacher, teaching
from torchpare.distillation.term import FeatureTerm, Term
from torchpare.errors import ConfigError

__all__ = ["Distiller"]


class Distiller:
    """The weighted sum of what a student and its teachers differ in; call it after each run of the student.

    Hooks on the student keep what the layers in question return, until `close`. The teachers run inside the call, on
    the inputs given to it, in evaluation mode and without gradients; so gradients flow to the student alone. A copy
    that was not pruned, in evaluation mode too, has a loss of exactly 0.

    The student may have masks or quantizers attached, be shrunk (before, or while the distiller is there), run under
    ``torch.autocast``, recompute activations (``use_reentrant=False``), and be wrapped in DistributedDataParallel. Make
    the distiller before a ``torch.compile``-d student first runs. Call both in one autocast, or the teacher computes in
    other types than the student.

    Args:
        student: the model that is trained.
        teacher: one model, or several, as modules or as `Teacher` with a weight and terms of its own. If None, a frozen
            copy of the student as it is now.
        terms: what is compared; see `torchpare.distillation`.
        check_finite: raise an error that names the layer where the loss is not finite. It waits for the device once a
            step; switch it off where a gradient scaler is to skip such steps by itself.

    Raises:
        ConfigError: an argument that cannot be used, or a layer that a model lacks; the models are as they were.

    Example:
        >>> from torch import nn, ones
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> distiller = Distiller(model, None, [SoftTargets(temperature=4.0, weight=0.9)])
        >>> float(distiller(model(ones(5, 3)), ones(5, 3)).detach())
        0.0
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | Sequence[nn.Module | Teacher] | None = None,
        terms: Sequence[Term] = (),
        *,
        check_finite: bool = True,
    ) -> None:
        if not isinstance(student, nn.Module):
            raise ConfigError(f"the student is a torch.nn.Module, got {type(student).__name__}")
        self.student = plain_model(student)
        self.check_finite = check_finite
        self.losses: dict[str, Tensor] = {}
        """The latest value of each kind of term, weighted and detached, to be logged: ``{"soft_targets": ...}``."""
        given = dense_teacher(self.student) if teacher is None else teacher
        several = list(given) if isinstance(given, list | tuple) else [given]
        if not several:
            raise ConfigError("there is no teacher in the list; name one, or leave it out for a copy of the student")
        self.teachers = [one if isinstance(one, Teacher) else Teacher(one) for one in several]  # type: ignore[arg-type]
        if any(plain_model(one.model) is self.student for one in self.teachers):
            raise ConfigError("the teacher is the student itself; give dense_teacher(model), taken before pruning")
        self._terms = [_checked(terms if one.terms is None else one.terms) for one in self.teachers]
        self._kept = [KeptOutputs(self.student, one.model, None) for one in self.teachers]
        self._dropped = dropped_from(self.student)
        self._addresses = [self._find(at) for at in range(len(self.teachers))]
        own = [pair[0].layer for pairs in self._addresses for pair in pairs.values()]
        self._watches: list[Watch] = []
        try:
            self._watches.append(Watch(self.student, own, "student"))
            for one, pairs in zip(self.teachers, self._addresses, strict=True):
                its = [pair[1].layer for pair in pairs.values()]
                self._watches.append(Watch(plain_model(one.model), its, "teacher"))
        except ConfigError:
            self.close()
            raise

    def __call__(self, student_output: Any, *inputs: Any, **named_inputs: Any) -> Tensor:
        """The loss, for the latest run of the student.

        Args:
            student_output: what the student returned: a tensor, tuple, dict or ModelOutput.
            *inputs: what the student was called with, which the teachers are called with too.
            **named_inputs: likewise; masks and labels among them tell which tokens count.

        Returns:
            A scalar in float32 or float64.

        Raises:
            ConfigError: shapes that cannot be matched, a layer that did not run, or a loss that is not finite, with
                the name of the layer.
            CaptureError: channels have to be matched, and a model could not be followed on the inputs.
        """
        if not self._watches:
            raise ConfigError("the distiller is closed; make a new one")
        seen = self._watches[0].take()
        call = read_call(self.student, inputs, named_inputs)
        losses: dict[str, Tensor] = {}
        compared: list[Pair] = []
        for at, teacher in enumerate(self.teachers):
            output, taught = self._ask(at, inputs, named_inputs)
            example = dict(call.arguments) if named_inputs else inputs
            with torch.autocast(self._device().type, enabled=False), self._matching(at, example):
                for term in self._terms[at]:
                    if isinstance(term, SoftTargets):
                        own, its = (logits_of(one, term.output, "model") for one in (student_output, output))
                        compared.append((term.word(), own, its))
                        loss = term.loss(student_output, output, call)
                    else:
                        pairs = self._pairs(at, term, seen, taught, call)
                        compared += [pair for pair, _ in pairs]
                        loss = torch.stack([_compared(term, pair, counted) for pair, counted in pairs]).sum()
                    loss = teacher.weight * term.weight * loss
                    losses[term.word()] = losses[term.word()] + loss if term.word() in losses else loss
        self.losses = {word: loss.detach() for word, loss in losses.items()}
        total = torch.stack(list(losses.values())).sum()
        if self.check_finite and not torch.isfinite(total):
            raise ConfigError(f"the distillation loss is {float(total.detach())}. {not_finite(compared)}")
        return total

    def close(self) -> None:
        """Take the hooks off the models; the distiller cannot be called any more."""
        while self._watches:
            self._watches.pop().remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _find(self, at: int) -> dict[tuple[Address, Address | None], tuple[Address, Address]]:
        """Of every pair of addresses that the terms of a teacher name, where both are found."""
        found = {}
        for term in self._terms[at]:
            for own, its in term.addresses if isinstance(term, FeatureTerm) else ():
                there = its or Address(self._kept[at].name_of(own.layer), own.keys)
                found[own, its] = (own, there)
        return found

    def _ask(self, at: int, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Features]:
        """Run a teacher."""
        model = self.teachers[at].model
        places = {parameter.device for parameter in model.parameters()}
        if places and self._device() not in places:
            raise ConfigError(f"the student is on {self._device()}, and the teacher on {', '.join(map(str, places))}; "
                              f"move it: teacher.to('{self._device()}')")  # fmt: skip
        with teaching(model):
            output = model(*inputs, **named)
        return output, self._watches[1 + at].take()

    @contextmanager
    def _matching(self, at: int, inputs: Any) -> Iterator[None]:
        """While this lasts, questions about kept channels are answered on this batch, which nobody holds afterwards."""
        if dropped_from(self.student) != self._dropped:
            raise ConfigError("blocks were dropped from the student since the distiller was made, so its layers have "
                              "other names now; make a new distiller")  # fmt: skip
        kept = self._kept[at]
        kept.inputs = inputs
        try:
            yield
        finally:
            kept.inputs = None

    def _pairs(
        self, at: int, term: FeatureTerm, seen: Features, taught: Features, call: Call
    ) -> list[tuple[Pair, Tensor | None]]:
        """What a term compares: pairs of tensors with the same channels, and which of their tokens count."""
        found = []
        for addresses in term.addresses:
            own, its = self._addresses[at][addresses]
            where = f"{term.word()} at '{own}'" if its == own else f"{term.word()} at '{own}' (the teacher's '{its}')"
            ours, others = seen.at(own), taught.at(its)
            if seen.without_gradient(own):
                raise ConfigError(
                    f"{where}: the layer ran without gradients inside a student that ran with them, as under gradient "
                    "checkpointing with use_reentrant=True; say use_reentrant=False"
                )
            if len(ours) != len(others):
                raise ConfigError(f"{where}: the student called the layer {len(ours)} times, the teacher {len(others)}")
            for mine, other in zip(ours, others, strict=True):
                student, teacher = widened(mine.tensor), widened(other.tensor)
                if term.channels == "kept":
                    axes = self._kept[at].axes(own.layer, its.layer, mine.number)
                    student, teacher = matched(where, student, teacher, *axes)
                tokens = term.tokens(student)
                counted = None if tokens is None else call.counted(term.mask, tokens, where)
                found.append(((where, student, teacher), counted))
        return found

    def _device(self) -> torch.device:
        return next((parameter.device for parameter in self.student.parameters()), torch.device("cpu"))


def _compared(term: FeatureTerm, pair: Pair, counted: Tensor | None) -> Tensor:
    where, student, teacher = pair
    try:
        return term.compare(student, teacher, counted)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _checked(terms: Sequence[Any]) -> list[SoftTargets | FeatureTerm]:
    """A copy of a list of terms."""
    if isinstance(terms, Term):
        raise ConfigError(f"terms is one {type(terms).__name__}, not a list; give [{type(terms).__name__}(...)]")
    for at, term in enumerate(terms):
        if not isinstance(term, SoftTargets | FeatureTerm):
            raise ConfigError(f"terms[{at}] is {term!r}, no term such as SoftTargets(temperature=4.0); what a recipe "
                              "says becomes terms by terms_from_config")  # fmt: skip
    if not terms:
        raise ConfigError("there are no terms, so a teacher teaches nothing; give a list such as [SoftTargets()]")
    return list(terms)
