"""Loops that you write yourself, plain or with Accelerate: nothing of torchpare is in their body."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from torchpare.attach import Compressor
from torchpare.errors import ConfigError
from torchpare.integrations.following import Following, check_averaged, checked, load_states, states

__all__ = ["Control", "compression"]

_WHERE = "compression"


def compression(
    *compressors: Compressor, optimizer: Optimizer | Sequence[Optimizer], averaged: AveragedModel | None = None
) -> Control:
    """Tell pruners and quantizers how far a loop of yours is.

    ::

        with compression(pruner, quantizer, optimizer=optimizer) as control:
            for epoch in control.epochs(10):
                for x, y in batches:
                    ...  # as ever, with optimizer.step()

    Steps are those that the optimizer takes, told by its own hooks: those that accumulate gradients only, or that a
    ``GradScaler`` leaves out, do not count.

    Args:
        compressors: pruners and quantizers, whose ``compress()`` has been called.
        optimizer: the one that trains, or several; as it is, or as ``accelerator.prepare`` returned it.
        averaged: a copy of the compressed model with averaged weights, ``AveragedModel(model, ...)``, which gets the
            masks and ranges of the model that trains.

    Returns:
        To be used in a ``with`` statement.

    Raises:
        ConfigError: there is no compressor, one is none or has not compressed its model, or the averaged model is no
            copy of what is compressed.
    """
    return Control(checked(compressors, _WHERE), optimizer, averaged)


class Control:
    """Tells of epochs and steps as long as its ``with`` block lasts; see `compression`.

    Accelerate saves it with the rest: ``accelerator.register_for_checkpointing(control)``.
    """

    def __init__(
        self,
        compressors: Sequence[Compressor],
        optimizer: Optimizer | Sequence[Optimizer],
        averaged: AveragedModel | None = None,
    ) -> None:
        given: list[Any] = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        for own in given:
            if not isinstance(own, Optimizer):
                raise ConfigError(f"{_WHERE}: optimizer is a {type(own).__name__}; it is the torch optimizer that "
                                  "trains, or a list of them")  # fmt: skip
        self.optimizers = [unwrapped(own) for own in given]
        model = compressors[0].bound_model
        self.averaged = [] if averaged is None else [(model, averaged)]
        if averaged is not None and any(own.bound_model is not model for own in compressors):
            raise ConfigError(f"{_WHERE}: averaged is the copy of one model, and several are compressed: use a "
                              "compression of its own for each")  # fmt: skip
        check_averaged(compressors, self.averaged, _WHERE)
        self.epoch: int | None = None
        """The epoch that runs, or ran last; None before the first."""
        self._following = Following(compressors)

    def __enter__(self) -> Self:
        """Begin to tell.

        Raises:
            ConfigError: the optimizer does not train what is compressed, or a compressor was given another one.
        """
        self._following.start(self.optimizers, self.averaged, _WHERE)
        self._following.expect_states(*(copied.module for _, copied in self.averaged))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell no more."""
        self._following.carry_over()
        self._following.let_go()

    def epochs(self, total: int, *, start: int | None = None) -> Iterator[int]:
        """The numbers of the epochs to train, each told before it begins.

        Args:
            total: how many there are, those of a run that is resumed included.
            start: the first one; by default 0, or, in a run that is resumed, the one after that in which its state was
                taken. For a state that was taken in the middle of an epoch give ``control.epoch``, and leave out the
                batches that were learnt.
        """
        behind = 0 if self.epoch is None else self.epoch + 1
        for epoch in range(behind if start is None else start, total):
            self.epoch = epoch
            self._following.update_epoch(epoch)
            yield epoch

    def state_dict(self) -> dict[str, Any]:
        """What a run that is resumed needs beside the states of model and optimizer: numbers, texts and tensors."""
        return {"epoch": self.epoch, "compressors": states(self._following.compressors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a run was. In the ``with`` block, a model takes over its masks from its own state too.

        Raises:
            ConfigError: it is not the state of such a run.
        """
        if not isinstance(state, Mapping) or not {"epoch", "compressors"} <= state.keys():
            raise ConfigError(f"{_WHERE}: this is not what state_dict() gave")
        load_states(self._following.compressors, state["compressors"], _WHERE)
        self.epoch = None if state["epoch"] is None else int(state["epoch"])
        self._following.carry_over()


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer that steps, of one that Accelerate has prepared; any other is itself."""
    if "accelerate" in sys.modules:  # where it was never imported, it has prepared nothing
        from accelerate.optimizer import AcceleratedOptimizer

        while isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
    return optimizer
