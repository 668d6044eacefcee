"""What a training loop and a checkpoint ask of whoever compresses a model, pruners and quantizers alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from torchpare.errors import ConfigError

__all__ = ["Compressor"]


class Compressor(ABC):
    """Compresses a model that trains: told of epochs and steps, and saved and restored with the training.

    Masks, scales and counted steps lie in the model. What an algorithm knows beside them (where its schedule stands,
    what it has seen of the data, what it trains itself) is its own state.
    """

    bound_model: nn.Module
    """The model that is compressed."""

    optimizer: Optimizer | None
    """Whose steps are counted, if that is known."""

    _compressed: bool
    _follows: bool = False
    """Whether the optimizer came by `follow`, and may be followed by another."""

    @abstractmethod
    def compress(self) -> nn.Module:
        """Compress the model and return it, the same object. A second call changes nothing."""

    @property
    def compressed(self) -> bool:
        """Whether ``compress()`` has been called."""
        return self._compressed

    @property
    @abstractmethod
    def layers(self) -> Iterable[str]:
        """The names of the layers that the ``config_list`` selects."""

    # --------------------------------------------------------------------------------------------- what a loop says

    def update_epoch(self, epoch: int) -> None:  # noqa: B027 - most algorithms have nothing to do here
        """Say that an epoch begins; harmless where the algorithm does not care, as here."""

    def step(self) -> None:  # noqa: B027 - as above
        """Say that a minibatch has been learnt; harmless where the algorithm does not care, as here."""

    def follow(self, optimizer: Optimizer) -> None:
        """Count the steps of an optimizer, where the constructor was given none; ``step()`` need not be called then.

        A library that trains makes its optimizer late, when the model is compressed already. What learns of its own
        (the steps of LSQ) is not added to the optimizer: make that of ``model.parameters()`` after ``compress()``. A
        second call leaves the first optimizer for the second; where no steps are counted nothing happens.

        Raises:
            ConfigError: the constructor was given another optimizer, so that its steps are waited for.
        """
        if optimizer is self.optimizer or not self.counts_steps:
            return
        if self.optimizer is not None and not self._follows:
            raise ConfigError(
                f"{type(self).__name__} was given another optimizer than the one that trains the model, and would wait "
                "for its steps in vain: give it the same one, or none"
            )
        self.optimizer, self._follows = optimizer, True
        self.hang_on(optimizer)

    @property
    def counts_steps(self) -> bool:
        """Whether an optimizer's steps matter, now or later; not here."""
        return False

    def hang_on(self, optimizer: Optimizer) -> None:  # noqa: B027 - called only where steps are counted
        """Count the steps of this optimizer instead of what was counted before."""

    # ------------------------------------------------------------------------------------------ what a checkpoint asks

    def state_dict(self) -> dict[str, Any]:
        """What a run that is resumed needs beside the model's own state: numbers, texts and tensors.

        ``torch.load(..., weights_only=True)`` reads it.
        """
        return {"algorithm": type(self).__name__, "layers": list(self.layers), "progress": self.progress()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a run was when it was saved. Call ``compress()`` before, and load the model's state too.

        Args:
            state: what ``state_dict()`` gave, of the same algorithm with the same ``config_list``.

        Raises:
            ConfigError: ``compress()`` was not called, or the state is of another algorithm, or of other layers, or
                not a state at all.
        """
        name = type(self).__name__
        if not self._compressed:
            raise ConfigError(f"{name}: call compress() before the state of a run is loaded")
        if not isinstance(state, Mapping) or not {"algorithm", "layers", "progress"} <= state.keys():
            raise ConfigError(f"{name}: this is not what state_dict() gave")
        if state["algorithm"] != name:
            raise ConfigError(f"{name}: this is the state of {state['algorithm']}")
        if list(state["layers"]) != list(self.layers):
            odd = sorted(set(state["layers"]) ^ set(self.layers)) or list(self.layers)
            raise ConfigError(f"{name}: this is the state of a run with other layers ({', '.join(odd[:3])}): use the "
                              "config_list that it was saved with")  # fmt: skip
        try:
            self.go_on(state["progress"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{name}: this is not what state_dict() gave ({error})") from error

    def progress(self) -> dict[str, Any]:
        """Where the algorithm stands, of what is not in the model; nothing here."""
        return {}

    def go_on(self, progress: Mapping[str, Any]) -> None:  # noqa: B027 - there is nothing to take over here
        """Stand where `progress` says."""
