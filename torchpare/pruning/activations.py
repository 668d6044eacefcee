"""Pruners that look at what layers pass on: how often it is zero, and how much it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from torchpare.attach.activation_watch import ActivationWatch
from torchpare.errors import ConfigError
from torchpare.numerics import activation_sums
from torchpare.pruning.data_driven import DataDrivenPruner, two_places_earlier
from torchpare.pruning.granularity import Allocation

__all__ = ["ActivationAPoZRankFilterPruner", "ActivationMeanRankFilterPruner"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "gelu": functional.gelu,
}


class _ActivationPruner(DataDrivenPruner):
    """Watches what layers return, behind the activation function that follows them.

    Args:
        activation: ``"relu"``, ``"relu6"`` or ``"gelu"``; it may change places with the number of minibatches. The
            others are :class:`DataDrivenPruner`'s; where ``trainer`` is a text, they are those of scripts that train
            themselves: ``(model, config_list, optimizer, activation, statistics_batch_num, dependency_aware,
            dummy_input)``.
    """

    def __init__(  # noqa: PLR0913 - the arguments of the older toolkit
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | Callable[..., Any] | None = None,
        trainer: Callable[..., Any] | Optimizer | str | None = None,
        criterion: Any = None,
        activation: Any = "relu",
        sparsifying_training_batches: Any = 1,
        dependency_aware: bool | str = False,
        dummy_input: Any = None,
        *,
        statistics_batch_num: int | None = None,
        training_batches: int | None = None,
        **allocation: Unpack[Allocation],
    ) -> None:
        if isinstance(activation, int) and not isinstance(trainer, str):
            # a later version: batches, then the activation
            batches, given = activation, sparsifying_training_batches
            activation, sparsifying_training_batches = given if isinstance(given, str) else "relu", batches
        if isinstance(trainer, str):
            earlier = two_places_earlier(criterion, activation, sparsifying_training_batches)
            activation, trainer, criterion = trainer, None, None
            sparsifying_training_batches = earlier[0]
            dependency_aware, dummy_input = (
                dependency_aware or earlier[1],
                earlier[2] if dummy_input is None else dummy_input,
            )
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"{type(self).__name__}: activation is {activation!r}; it is one of "
                              f"{', '.join(map(repr, _ACTIVATIONS))}")  # fmt: skip
        self.activation = activation
        super().__init__(
            model, config_list, optimizer, trainer, criterion,
            statistics_batch_num or training_batches or sparsifying_training_batches, dependency_aware, dummy_input,
            **allocation,
        )  # fmt: skip

    def watched(self, layers: Mapping[str, nn.Module]) -> ActivationWatch:
        """Watch the layers' outputs; where an optimizer tells what a minibatch is, validation between is none."""
        return ActivationWatch(
            layers,
            lambda output, axis: activation_sums(_ACTIVATIONS[self.activation](output), axis),
            evaluation=self.optimizer is None or self.training is not None,
        )


class ActivationAPoZRankFilterPruner(_ActivationPruner):
    """Removes the filters whose activations are zero most often.

    Hu, Peng, Tai, Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures",
    2016, equation 1. With ``"gelu"``, which is zero nowhere else, it can tell nothing: use the mean rank.
    """

    def judged(self, seen: Any) -> Tensor:
        """The share of entries that are not zero: one minus the average percentage of zeros."""
        active, _, entries = seen
        return active.double().cpu() / entries


class ActivationMeanRankFilterPruner(_ActivationPruner):
    """Removes the filters whose mean activation is smallest.

    Molchanov, Tyree, Karras, Aila, Kautz, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    ICLR 2017, section 2.2, no numbered equation.
    """

    def judged(self, seen: Any) -> Tensor:
        """The mean over all entries of a channel."""
        _, total, entries = seen
        return total.cpu() / entries
