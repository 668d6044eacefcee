"""Training as NNI 2.9 and later were told of it: an evaluator that a pruner asks to train and to evaluate a model.

NNI's evaluators took optimizers and losses apart to get between their steps. Here the tasks that have to run before or
after a step hang on the optimizer's own hooks, or on the callbacks of the library that trains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from torch import nn
from torch.optim import Optimizer

from torchpare.attach.steps import Steps
from torchpare.errors import CompatError, ConfigError

__all__ = ["Evaluator", "Task", "TorchEvaluator", "restored_modes"]

Task = Callable[[], Any]


class Evaluator(ABC):
    """Trains and evaluates a model for a pruner or quantizer.

    Args:
        dummy_input: an example input of the model, for pruners that need one.
    """

    def __init__(self, dummy_input: Any = None) -> None:
        self.dummy_input = dummy_input
        self.model: nn.Module | None = None
        self._before: tuple[Task, ...] = ()
        self._after: tuple[Task, ...] = ()
        self._hooks: list[Any] = []

    @abstractmethod
    def run(
        self,
        model: nn.Module,
        *,
        before: Task | None = None,
        after: Task | None = None,
        max_steps: int | None = None,
        max_epochs: int | None = None,
    ) -> None:
        """Train a model.

        Args:
            model: what to train.
            before: what to call before each step of the optimizer, when gradients are there.
            after: what to call after each step.
            max_steps: how many steps; as many as the training itself says, if not given.
            max_epochs: how many epochs; as many as the training itself says, if not given.
        """

    @abstractmethod
    def measure(self, model: nn.Module) -> Any:
        """What the user's evaluation says of a model: a number, or a dict with one under ``"default"``."""

    @property
    def optimizer(self) -> Optimizer | None:
        """The first optimizer; None where the library that trains makes it."""
        return None

    def score(self, model: nn.Module) -> float:
        """What the user's evaluation says of a model, as one number.

        Raises:
            ConfigError: it is none.
        """
        found = self.measure(model)
        value = found.get("default") if isinstance(found, Mapping) else found
        try:
            return float(value)  # type: ignore[arg-type] - what is no number is told below
        except (TypeError, ValueError):
            raise ConfigError(f"the evaluation returned {found!r}; it returns a number, or a dict with one under "
                              "'default'") from None  # fmt: skip

    # -------------------------------------------------------------------------------------- what NNI's evaluators had

    def bind_model(self, model: nn.Module, param_names_map: Mapping[str, str] | None = None) -> None:
        """Remember the model; parameters keep their names here, so ``param_names_map`` is not needed."""
        del param_names_map
        self.model = model

    def unbind_model(self) -> None:
        """Forget the model."""
        self.model = None

    def patch_optimizer_step(self, before_step_tasks: Sequence[Task], after_step_tasks: Sequence[Task]) -> None:
        """Call these tasks before and after each step of the training to come."""
        self._before, self._after = (*self._before, *before_step_tasks), (*self._after, *after_step_tasks)

    def revert_optimizer_step(self) -> None:
        """Forget the tasks."""
        self._before = self._after = ()

    def register_hooks(self, hooks: Sequence[Any]) -> None:
        """Register these hooks, objects with ``register()`` and ``remove()``, and remember them."""
        for hook in hooks:
            hook.register()
            self._hooks.append(hook)

    def get_all_hooks(self) -> list[Any]:
        """The hooks that are registered."""
        return list(self._hooks)

    def remove_hooks(self, hooks: Sequence[Any]) -> None:
        """Take these hooks off."""
        for hook in hooks:
            hook.remove()
        self._hooks = [hook for hook in self._hooks if hook not in hooks]

    def remove_all_hooks(self) -> None:
        """Take all hooks off."""
        self.remove_hooks(self._hooks)

    def patch_loss(self, *_: Any) -> NoReturn:
        """Losses are not patched here.

        Raises:
            CompatError: always.
        """
        raise CompatError("torchpare changes no loss behind its author's back: add to it where you compute it, or to "
                          "gradients in patch_optimizer_step(before_step_tasks, [])")  # fmt: skip

    revert_loss = patch_loss

    def train(self, max_steps: int | None = None, max_epochs: int | None = None) -> None:
        """Train the model that is bound."""
        self.run(self._bound(), max_steps=max_steps, max_epochs=max_epochs)

    def finetune(self) -> None:
        """Train the model that is bound, as long as the training itself says."""
        self.run(self._bound())

    def evaluate(self) -> tuple[float, Any]:
        """``(score, all metrics)`` of the model that is bound."""
        found = self.measure(self._bound())
        return (float(found["default"]) if isinstance(found, Mapping) else float(found)), found

    def get_dummy_input(self) -> Any:
        """The example input."""
        return self.dummy_input

    def _bound(self) -> nn.Module:
        if self.model is None:
            raise CompatError(f"the {type(self).__name__} is bound to no model: call bind_model(model) first")
        return self.model

    def _tasks(self, before: Task | None, after: Task | None) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
        first = () if before is None else (before,)
        last = () if after is None else (after,)
        return (*self._before, *first), (*self._after, *last)


class TorchEvaluator(Evaluator):
    """Trains by a function of the user's.

    Args:
        training_func: called as ``training_func(model, optimizers, criterion, lr_schedulers, max_steps, max_epochs)``,
            with single optimizers and schedulers where single ones were given.
        optimizers: what steps, one or a list; the first one's steps count.
        criterion: handed to the function: the loss; of NNI 3, ``training_step(batch, model)``.
        lr_schedulers: handed to the function.
        dummy_input: an example input of the model.
        evaluating_func: ``evaluating_func(model) -> float``, or a dict with one under ``"default"``.
        training_step: the name of ``criterion`` in NNI 3.

    Raises:
        ConfigError: something cannot be called, or is no optimizer.
    """

    def __init__(
        self,
        training_func: Callable[..., Any],
        optimizers: Optimizer | Sequence[Optimizer],
        criterion: Callable[..., Any] | None = None,
        lr_schedulers: Any = None,
        dummy_input: Any = None,
        evaluating_func: Callable[[nn.Module], Any] | None = None,
        *,
        training_step: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(dummy_input)
        every = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        if not every or not all(isinstance(one, Optimizer) for one in every):
            raise ConfigError("TorchEvaluator: optimizers are a torch optimizer, or a list of such")
        if not callable(training_func):
            raise ConfigError("TorchEvaluator: training_func is a function (model, optimizers, criterion, lr_schedulers"
                              ", max_steps, max_epochs) that trains the model")  # fmt: skip
        self.training_func, self.optimizers, self.lr_schedulers = training_func, optimizers, lr_schedulers
        self.criterion = training_step if criterion is None else criterion
        self.evaluating_func = evaluating_func
        self._optimizer = every[0]

    @property
    def optimizer(self) -> Optimizer:
        """The first optimizer, whose steps count."""
        return self._optimizer

    def run(
        self,
        model: nn.Module,
        *,
        before: Task | None = None,
        after: Task | None = None,
        max_steps: int | None = None,
        max_epochs: int | None = None,
    ) -> None:
        """Call the function; tasks hang on the optimizer's own hooks meanwhile."""
        first, last = self._tasks(before, after)
        steps = Steps(self._optimizer, before=partial(_each, first), after=partial(_each, last))
        try:
            with restored_modes(model):
                model.train()
                self.training_func(model, self.optimizers, self.criterion, self.lr_schedulers, max_steps, max_epochs)
        finally:
            steps.remove()

    def measure(self, model: nn.Module) -> Any:
        """What ``evaluating_func`` says.

        Raises:
            ConfigError: there is none.
        """
        if self.evaluating_func is None:
            raise ConfigError("TorchEvaluator: this needs evaluating_func, a function (model) -> float")
        with restored_modes(model):
            return self.evaluating_func(model)


@contextmanager
def restored_modes(model: nn.Module) -> Iterator[None]:
    """Train and eval as they were, after whatever changes them."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _each(tasks: Sequence[Task]) -> None:
    for task in tasks:
        task()
