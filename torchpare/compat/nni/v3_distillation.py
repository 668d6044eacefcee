"""The distillers of NNI 3: layers of a student learn from those of a teacher while an evaluator trains the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.evaluators import TorchEvaluator
from torchpare.compat.nni.v3_select import selected
from torchpare.config import WEIGHTED
from torchpare.distillation import Distiller, FeatureTerm, HiddenStates
from torchpare.errors import CompatError, ConfigError
from torchpare.numerics.distances import soft_target_loss

__all__ = ["Adaptive1dLayerwiseDistiller", "DynamicLayerwiseDistiller", "SoftOutputs"]

_TEMPERATURE = 2.0  # NNI's own


@dataclass(frozen=True)
class SoftOutputs(FeatureTerm):
    """The softened classes that layers tell: ``T ** 2 * KL(teacher || student)`` with ``T = 2``, classes last.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015. See `FeatureTerm` for the arguments.
    """

    def compare(self, student: Tensor, teacher: Tensor, counted: Tensor | None) -> Tensor:
        """The mean over everything that counts but the classes."""
        return soft_target_loss(student, teacher, _TEMPERATURE, counted)


class DynamicLayerwiseDistiller:
    """Adds to the loss of each training step how far layers of the student are from those of the teacher.

    Args:
        model: the student, also a pruned or shrunk one.
        config_list: which layers, with ``lambda`` (times which they count), ``apply_method`` (``"mse"`` or ``"kl"``)
            and ``link`` (the teacher's layer; that of the same name, if it is ``"auto"`` or not given).
        evaluator: a `TorchEvaluator` with a training step that returns the loss, or a tuple or dict that has it.
        teacher_model: the teacher.
        teacher_predict: not needed: the teacher is run on what the student was given.
        origin_loss_lambda: times which the loss of the training step counts.

    Raises:
        ConfigError, CompatError: an argument cannot be used; the models are as they were.
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: Any,
        evaluator: TorchEvaluator,
        teacher_model: nn.Module,
        teacher_predict: Callable[..., Any] | None = None,
        origin_loss_lambda: float = 1.0,
    ) -> None:
        del teacher_predict
        name = type(self).__name__
        if not isinstance(evaluator, TorchEvaluator) or evaluator.criterion is None:
            raise CompatError(f"{name} adds to what a training step returns: give it a TorchEvaluator with one; where "
                              "a library computes the loss, add torchpare.distillation.Distiller's to it")  # fmt: skip
        self.bound_model, self.evaluator, self.origin_loss_lambda = model, evaluator, origin_loss_lambda
        self.terms, self.teacher = terms_of(model, config_list), teacher_model
        self.losses: dict[str, Tensor] = {}
        """The latest value of each kind of term."""
        Distiller(model, teacher_model, self.terms).close()  # says what is wrong with layers and links

    def compress(self, max_steps: int | None = None, max_epochs: int | None = None) -> Any:
        """Train the student, and return ``(model, losses)``."""
        tell("distillation")
        seen: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

        def keep(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            seen[:] = [(args, named, output)]

        handle = self.bound_model.register_forward_hook(keep, with_kwargs=True)
        own = self.evaluator.criterion
        assert own is not None
        with Distiller(self.bound_model, self.teacher, self.terms) as distiller:

            def training_step(*given: Any, **named: Any) -> Any:
                returned = own(*given, **named)
                args, keywords, output = seen.pop()
                taught = distiller(output, *args, **keywords)
                self.losses = distiller.losses
                return _added(returned, self.origin_loss_lambda, taught)

            self.evaluator.criterion = training_step
            try:
                self.evaluator.run(self.bound_model, max_steps=max_steps, max_epochs=max_epochs)
            finally:
                self.evaluator.criterion = own
                handle.remove()
        return self.bound_model, self.losses


class Adaptive1dLayerwiseDistiller(DynamicLayerwiseDistiller):
    """As `DynamicLayerwiseDistiller`: nothing has to be adapted, for the channels that a student kept are known."""


def terms_of(model: nn.Module, config_list: Any) -> Sequence[FeatureTerm]:
    """What a ``config_list`` of NNI 3 compares.

    Raises:
        ConfigError: it is no list of dicts, or reaches no layer.
        CompatError: a target, method or link has no counterpart.
    """
    if not isinstance(config_list, list | tuple) or not config_list:
        raise ConfigError("config_list is no list of dicts, such as [{'op_names': ['layer1'], 'lambda': 0.5}]")
    terms: list[FeatureTerm] = []
    for at, entry in enumerate(config_list):
        where = f"config_list[{at}]"
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{where} is {entry!r} ({type(entry).__name__}), not a dict")
        names, said = selected(model, entry, where, WEIGHTED)
        settings = said.pop("target_settings", None) or {}
        targets = said.pop("target_names", None) or list(settings) or ["_output_0"]
        terms.extend(_term(names, target, {**said, **settings.get(target, {})}, where) for target in targets)
    return terms


def _term(names: Sequence[str], target: str, said: dict[str, Any], where: str) -> FeatureTerm:
    if not target.startswith("_output_"):
        raise CompatError(f"{where}: {target!r} cannot be learnt from here; what layers return can: '_output_0'")
    unknown = [key for key in said if key not in ("lambda", "link", "apply_method")]
    if unknown:
        raise ConfigError(f"{where}[{unknown[0]!r}]: there is no such key; there are 'lambda', 'link', 'apply_method'")
    link, index = said.get("link", "auto"), target.removeprefix("_output_")
    links = [link] if isinstance(link, str) else list(link)
    if len(links) != 1:
        raise CompatError(f"{where}['link'] names {len(links)} layers; here a layer learns from one, and another entry "
                          "may name another")  # fmt: skip
    suffix = "" if index in ("", "0") else f"[{index}]"
    layers = [f"{name}{suffix}" if links[0] == "auto" else (f"{name}{suffix}", f"{links[0]}{suffix}") for name in names]
    method = said.get("apply_method", "mse")
    if method not in ("mse", "kl"):
        raise CompatError(f"{where}['apply_method'] is {method!r}; it is 'mse' or 'kl'")
    return (HiddenStates if method == "mse" else SoftOutputs)(layers, said.get("lambda", 1.0))


def _added(returned: Any, share: float, taught: Tensor) -> Any:
    """What a training step returned, with the teacher's loss added to its own."""
    if isinstance(returned, Tensor):
        return share * returned + taught
    if isinstance(returned, Mapping) and "loss" in returned:
        return {**returned, "loss": share * returned["loss"] + taught}
    if isinstance(returned, tuple) and returned and isinstance(returned[0], Tensor):
        return (share * returned[0] + taught, *returned[1:])
    raise ConfigError(f"the training step returned a {type(returned).__name__}; it returns the loss, or a tuple that "
                      "begins with it, or a dict with it under 'loss'")  # fmt: skip
