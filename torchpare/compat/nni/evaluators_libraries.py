"""Evaluators whose training is a library's: Lightning's ``Trainer``, and that of Hugging Face Transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from torch import nn

from torchpare.compat.nni.evaluators import Evaluator, Task, restored_modes
from torchpare.errors import ConfigError, MissingExtraError

__all__ = ["LightningEvaluator", "TransformersEvaluator"]


class LightningEvaluator(Evaluator):
    """Trains a ``LightningModule`` by a Lightning ``Trainer``.

    Args:
        trainer: the trainer. What it counts goes on from one training to the next.
        data_module: the ``LightningDataModule``, handed to ``fit`` and ``validate``.
        dummy_input: an example input of the model.

    Raises:
        MissingExtraError: Lightning is not installed.
        ConfigError: ``trainer`` is no trainer.
    """

    def __init__(self, trainer: Any, data_module: Any, dummy_input: Any = None) -> None:
        super().__init__(dummy_input)
        self._library = _library(trainer, ("lightning.pytorch", "pytorch_lightning"), "lightning", "LightningEvaluator")
        self.trainer, self.data_module = trainer, data_module

    def run(
        self,
        model: nn.Module,
        *,
        before: Task | None = None,
        after: Task | None = None,
        max_steps: int | None = None,
        max_epochs: int | None = None,
    ) -> None:
        """Fit; tasks are told by a callback."""
        callback = _lightning_callback(self._library.Callback, *self._tasks(before, after))
        trainer, loop = self.trainer, self.trainer.fit_loop
        limits = loop.max_epochs, loop.epoch_loop.max_steps
        trainer.callbacks.append(callback)
        try:
            if max_steps is not None or max_epochs is not None:
                loop.max_epochs = -1 if max_epochs is None else trainer.current_epoch + max_epochs
                loop.epoch_loop.max_steps = -1 if max_steps is None else trainer.global_step + max_steps
            with restored_modes(model):
                trainer.fit(model, datamodule=self.data_module)
        finally:
            trainer.callbacks.remove(callback)
            loop.max_epochs, loop.epoch_loop.max_steps = limits

    def measure(self, model: nn.Module) -> Any:
        """What the module's validation logs: under ``"default"``, or, if it logs one number alone, that.

        Raises:
            ConfigError: it logs several numbers, and none as ``"default"``.
        """
        with restored_modes(model):
            (logged, *_) = self.trainer.validate(model, datamodule=self.data_module, verbose=False) or [{}]
        if "default" in logged:
            return logged
        if len(logged) != 1:
            raise ConfigError(f"LightningEvaluator: validation logs {', '.join(logged) or 'nothing'}; let it log the "
                              "score that counts: self.log('default', score)")  # fmt: skip
        return {"default": next(iter(logged.values())), **logged}


class TransformersEvaluator(Evaluator):
    """Trains a model by the ``Trainer`` of Hugging Face Transformers that holds it.

    Args:
        trainer: the trainer; ``compute_metrics`` returns a dict with the score under ``"default"``.
        dummy_input: an example input of the model.

    Raises:
        MissingExtraError: Transformers is not installed.
        ConfigError: ``trainer`` is no trainer.
    """

    def __init__(self, trainer: Any, dummy_input: Any = None) -> None:
        super().__init__(dummy_input)
        self._library = _library(trainer, ("transformers",), "transformers", "TransformersEvaluator")
        self.trainer = trainer

    def run(
        self,
        model: nn.Module,
        *,
        before: Task | None = None,
        after: Task | None = None,
        max_steps: int | None = None,
        max_epochs: int | None = None,
    ) -> None:
        """Train; tasks are told by a callback."""
        callback = _transformers_callback(self._library.TrainerCallback, *self._tasks(before, after))
        trainer, arguments = self.trainer, self.trainer.args
        limits = arguments.max_steps, arguments.num_train_epochs
        trainer.add_callback(callback)
        try:
            if max_steps is not None or max_epochs is not None:
                arguments.max_steps = -1 if max_steps is None else max_steps
                arguments.num_train_epochs = limits[1] if max_epochs is None else max_epochs
            with restored_modes(model), _holding(trainer, model):
                trainer.train()
        finally:
            trainer.remove_callback(callback)
            arguments.max_steps, arguments.num_train_epochs = limits

    def measure(self, model: nn.Module) -> Any:
        """What ``trainer.evaluate()`` says: ``eval_default``, or the loss, negated, if there is no such metric."""
        with restored_modes(model), _holding(self.trainer, model):
            found = self.trainer.evaluate()
        score = found.get("eval_default")
        return {"default": -found["eval_loss"] if score is None else score, **found}


def _library(trainer: Any, modules: Sequence[str], extra: str, name: str) -> Any:
    """The library that a trainer belongs to."""
    for path in modules:
        if any(kind.__module__.startswith(f"{path}.") for kind in type(trainer).__mro__):
            return import_module(path)
    try:
        import_module(modules[0])
    except ImportError as error:
        raise MissingExtraError(f"{modules[0]} is not installed; it comes with: pip install 'torchpare[{extra}]'"
                                ) from error  # fmt: skip
    raise ConfigError(f"{name}: trainer is a {type(trainer).__name__}, and no Trainer of {modules[0]}")


@contextmanager
def _holding(trainer: Any, model: nn.Module) -> Iterator[None]:
    """The trainer with this model in place of its own."""
    own = trainer.model, trainer.model_wrapped
    trainer.model = trainer.model_wrapped = model
    try:
        yield
    finally:
        trainer.model, trainer.model_wrapped = own


def _lightning_callback(base: type, before: Sequence[Task], after: Sequence[Task]) -> Any:
    def on_before_optimizer_step(_: Any, __: Any, ___: Any, ____: Any) -> None:
        _each(before)

    def on_train_batch_end(_: Any, trainer: Any, *__: Any) -> None:
        # With gradient accumulation several batches make one step.
        if trainer.global_step != seen["step"]:
            seen["step"] = trainer.global_step
            _each(after)

    def on_train_start(_: Any, trainer: Any, __: Any) -> None:
        seen["step"] = trainer.global_step

    seen = {"step": 0}
    hooks: dict[str, Callable[..., None]] = {
        "on_before_optimizer_step": on_before_optimizer_step,
        "on_train_batch_end": on_train_batch_end,
        "on_train_start": on_train_start,
    }
    return type("StepTasks", (base,), dict(hooks))()


def _transformers_callback(base: type, before: Sequence[Task], after: Sequence[Task]) -> Any:
    hooks: dict[str, Callable[..., None]] = {
        "on_pre_optimizer_step": lambda *_, **__: _each(before),
        "on_optimizer_step": lambda *_, **__: _each(after),
    }
    return type("StepTasks", (base,), dict(hooks))()


def _each(tasks: Sequence[Task]) -> None:
    for task in tasks:
        task()
