"""The model that knows: a frozen copy of the dense one, or any other, run in evaluation mode and without gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from torchpare.attach import detach_quantizers, is_attached
from torchpare.distillation.features import plain_model
from torchpare.distillation.term import Term, check_number
from torchpare.errors import ConfigError

__all__ = ["Teacher", "dense_teacher", "teaching"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def dense_teacher(model: AnyModule) -> AnyModule:
    """A frozen copy of a model, to learn from once the model itself is pruned: take it before.

    It is in evaluation mode, its parameters ask for no gradients, and quantizers that hang on the model are left out.

    Args:
        model: the trained model, without masks; as it is, or in DistributedDataParallel or torch.compile.

    Raises:
        ConfigError: it is no module, or masks are attached, so that it is no dense model any more.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"dense_teacher needs a torch.nn.Module, got {type(model).__name__}")
    plain = plain_model(model)
    if is_attached(plain):
        raise ConfigError(
            f"masks are attached to this {type(plain).__name__}, so it is no dense model any more: take the teacher "
            "before the pruner's compress(), or load the dense weights into a freshly built model"
        )
    teacher = copy.deepcopy(plain)
    detach_quantizers(teacher, bake=False)
    return teacher.eval().requires_grad_(requires_grad=False)  # type: ignore[return-value]


@dataclass(frozen=True)
class Teacher:
    """One of several teachers.

    Args:
        model: runs in evaluation mode and without gradients, on the student's device; nothing of it changes.
        weight: times which all that it teaches counts.
        terms: what it teaches; if None, the terms of the Distiller. Another architecture shares no channels with the
            student, so give it terms that need none: `SoftTargets`.

    Raises:
        ConfigError: an argument that cannot be used.
    """

    model: nn.Module
    weight: float = 1.0
    terms: Sequence[Term] | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.model, nn.Module):
            raise ConfigError(f"a teacher is a torch.nn.Module, got {type(self.model).__name__}")
        check_number(self.weight, "a teacher's weight", low=0)


@contextmanager
def teaching(model: nn.Module) -> Iterator[None]:
    """While this lasts, a model is in evaluation mode, without gradients, and all its layers are really called."""
    modes = {module: module.training for module in model.modules()}
    # Although nothing is differentiated, torch multiplies by weights that ask for gradients in another way than by such
    # that do not, and rounds otherwise: a teacher that the student equals would not return what the student does.
    frozen = [p for p in model.parameters() if p.is_floating_point() and not (p.requires_grad or p.is_inference())]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    # In evaluation, torch's encoder layers have a way of their own past the layers inside them: no hook sees those.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            for parameter in frozen:
                parameter.requires_grad = True
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad = False
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes.items():
            module.training = mode
