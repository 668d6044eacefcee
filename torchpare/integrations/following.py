"""What all training loops have in common: whom to tell of steps, and what has to be checked before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

from torchpare.attach import Compressor
from torchpare.attach.averaged import carry_over
from torchpare.attach.loading import take_masks_from_states
from torchpare.attach.steps import steps_not
from torchpare.errors import ConfigError
from torchpare.pruning.groups import is_incomplete

__all__ = ["Following", "check_averaged", "check_trained", "checked", "load_states", "states"]


class Following:
    """Compressors that follow a training: told of each step, their models ready for the states of checkpoints.

    Args:
        compressors: checked ones.
    """

    def __init__(self, compressors: Sequence[Compressor]) -> None:
        self.compressors = tuple(compressors)
        self._averaged: list[tuple[nn.Module, AveragedModel]] = []
        self._hooks: list[RemovableHandle] = []
        self._loading: list[RemovableHandle] = []

    def expect_states(self, *more: nn.Module) -> None:
        """From now on, let ``load_state_dict`` take over masks that a model does not have yet."""
        if not self._loading:
            models = dict.fromkeys([*(compressor.bound_model for compressor in self.compressors), *more])
            self._loading = [take_masks_from_states(model) for model in models]

    def start(
        self, optimizers: Sequence[Optimizer], averaged: Iterable[tuple[nn.Module, AveragedModel]], where: str
    ) -> None:
        """From now on, say ``step()`` after each step of the optimizer that trains a compressor's model.

        Args:
            optimizers: of the training.
            averaged: models that train, and their averaged copies.
            where: for messages.

        Raises:
            ConfigError: no optimizer trains the model, or a compressor waits for the steps of another one.
        """
        self.stop()
        chosen = [(compressor, _optimizer_of(compressor, optimizers, where)) for compressor in self.compressors]
        for compressor, optimizer in chosen:
            compressor.follow(optimizer)
        self._averaged = list(averaged)
        for optimizer in dict.fromkeys(own for _, own in chosen):
            told = [compressor for compressor, own in chosen if own is optimizer]
            self._hooks.append(optimizer.register_step_post_hook(partial(self._stepped, told)))
        self.carry_over()

    def update_epoch(self, epoch: int) -> None:
        """An epoch begins."""
        for compressor in self.compressors:
            compressor.update_epoch(epoch)
        self.carry_over()

    def carry_over(self) -> None:
        """Give averaged copies the masks and grids of the models that train."""
        for model, copied in self._averaged:
            carry_over(model, copied.module)

    def stop(self) -> None:
        """Say no more of steps."""
        _remove(self._hooks)
        self._averaged = []

    def let_go(self) -> None:
        """Say no more of steps, and take no more masks from states."""
        self.stop()
        _remove(self._loading)

    def _stepped(self, told: Sequence[Compressor], optimizer: Optimizer, *_: Any) -> None:
        if steps_not(optimizer):
            return
        for compressor in told:
            compressor.step()
        self.carry_over()


def checked(compressors: Sequence[Any], where: str) -> tuple[Compressor, ...]:
    """The compressors, if that is what they are.

    Raises:
        ConfigError: there are none, one is none, is there twice, or has not compressed its model yet.
    """
    if not compressors:
        raise ConfigError(f"{where} needs a pruner or a quantizer to tell of epochs and steps: give one or more")
    for at, given in enumerate(compressors):
        if isinstance(given, (list, tuple)):
            raise ConfigError(f"{where}: argument {at} is a {type(given).__name__}; give pruners and quantizers one by "
                              f"one, {where}(*compressors)")  # fmt: skip
        if not isinstance(given, Compressor):
            raise ConfigError(f"{where}: argument {at} is a {type(given).__name__}; it is a pruner or a quantizer of "
                              "torchpare")  # fmt: skip
        if any(given is earlier for earlier in compressors[:at]):
            raise ConfigError(f"{where}: argument {at}, a {type(given).__name__}, is given twice")
        if not given.compressed:
            raise ConfigError(f"{where}: call compress() of {type(given).__name__} first")
    return tuple(compressors)


def check_trained(compressors: Sequence[Compressor], model: nn.Module, where: str) -> None:
    """Check that what is compressed is what trains.

    Raises:
        ConfigError: a compressor's model is neither the model nor a part of it.
    """
    inside = {id(module) for module in model.modules()}
    for compressor in compressors:
        if id(compressor.bound_model) not in inside:
            raise ConfigError(
                f"{where}: {type(compressor).__name__} compresses a {type(compressor.bound_model).__name__} that is "
                f"neither the {type(model).__name__} that trains nor a part of it (a copy of it, perhaps): compress "
                "the model that you train"
            )


def check_averaged(
    compressors: Sequence[Compressor], averaged: Iterable[tuple[nn.Module, AveragedModel]], where: str
) -> None:
    """Check that averaging keeps masks and integers as they are.

    Raises:
        ConfigError: a copy averages buffers too, is no copy, or a model's masks are not complete when it begins.
    """
    for model, copied in averaged:
        if copied.use_buffers:
            raise ConfigError(f"{where}: the averaged model has use_buffers=True, which would take averages of masks "
                              "and of integers: use_buffers=False copies them")  # fmt: skip
        if [name for name, _ in model.named_modules()] != [name for name, _ in copied.module.named_modules()]:
            raise ConfigError(f"{where}: the averaged model is no copy of the {type(model).__name__} as it is "
                              "compressed now: make it after compress()")  # fmt: skip
        for compressor in compressors:
            if is_incomplete(compressor.bound_model):
                raise ConfigError(f"{where}: the masks of {type(compressor).__name__} wait for a first batch, and an "
                                  "averaged model would not know those that come then: pass dummy_input to the pruner, "
                                  "or call the model once before")  # fmt: skip


def states(compressors: Sequence[Compressor]) -> list[dict[str, Any]]:
    """The compressors' own states, in their order."""
    return [compressor.state_dict() for compressor in compressors]


def load_states(compressors: Sequence[Compressor], saved: Any, where: str) -> None:
    """Let compressors go on where those went that were saved.

    Raises:
        ConfigError: there were others, or in another order.
    """
    if not isinstance(saved, list) or not all(isinstance(own, Mapping) for own in saved):
        raise ConfigError(f"{where}: this is not what it saved")
    there = [own.get("algorithm") for own in saved]
    here = [type(compressor).__name__ for compressor in compressors]
    if there != here:
        raise ConfigError(f"{where}: saved with {', '.join(map(str, there))}, and here are {', '.join(here)}: give the "
                          "same pruners and quantizers in the same order")  # fmt: skip
    for compressor, own in zip(compressors, saved, strict=True):
        compressor.load_state_dict(own)


def _optimizer_of(compressor: Compressor, optimizers: Sequence[Optimizer], where: str) -> Optimizer:
    """The optimizer that trains a compressor's model: the one that it was given, or the first with its parameters."""
    for optimizer in optimizers:
        if optimizer is compressor.optimizer:
            return optimizer
    own = {id(parameter) for parameter in compressor.bound_model.parameters()}
    for optimizer in optimizers:
        if any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            return optimizer
    raise ConfigError(
        f"{where}: no optimizer here trains a parameter of the {type(compressor.bound_model).__name__} that "
        f"{type(compressor).__name__} compresses: make it of the parameters of that model"
    )


def _remove(handles: list[RemovableHandle]) -> None:
    while handles:
        handles.pop().remove()
