"""Pruners that ask data: filters that seldom fire, that pass little on, or that the loss would not miss.

They watch the model while it trains and mask it when they have seen enough. Who trains is up to you: give a ``trainer``
and ``compress()`` runs it for one epoch; give none, and after ``compress()`` the masks appear while you train, after as
many minibatches as were asked for. Minibatches are told by the optimizer's own steps, or by ``pruner.step()`` where the
pruner knows no optimizer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from torchpare.attach.watch import ActivationWatch, GradientWatch, Steps
from torchpare.config import Target, output_layout
from torchpare.errors import ConfigError, MaskError
from torchpare.numerics import Filter, activation_sums, first_order
from torchpare.pruning.one_shot import FilterPruner
from torchpare.pruning.training import checked_batches, training_of

__all__ = [
    "ActivationAPoZRankFilterPruner",
    "ActivationMeanRankFilterPruner",
    "DataDrivenPruner",
    "TaylorFOWeightFilterPruner",
]


class DataDrivenPruner(FilterPruner):
    """Base of the pruners that watch training: say what to watch, and what a filter's score is of what was seen.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.Entry`.
        optimizer: whose steps count minibatches.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch. Without it, you train
            behind ``compress()``.
        criterion: handed to the trainer.
        sparsifying_training_batches: how many minibatches to look at.
        dependency_aware: choose channels together where layers can only lose them together.
        dummy_input: an example input, for whole groups from the first mask on.

    Raises:
        ConfigError: as every pruner, or for a trainer without an optimizer.
    """

    mid_epoch = True
    """Whether masks appear as soon as enough was seen, also while a trainer still runs."""

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        trainer: Callable[..., Any] | None = None,
        criterion: Any = None,
        sparsifying_training_batches: int = 1,
        dependency_aware: bool = False,
        dummy_input: Any = None,
    ) -> None:
        super().__init__(model, config_list, optimizer, dependency_aware, dummy_input)
        name = type(self).__name__
        self.training = training_of(name, trainer, optimizer, criterion)
        self.batches = checked_batches(name, "sparsifying_training_batches", sparsifying_training_batches)
        self._watch: ActivationWatch | GradientWatch | None = None
        self._steps: Steps | None = None

    @abstractmethod
    def watched(self, layers: Mapping[str, nn.Module]) -> ActivationWatch | GradientWatch:
        """Begin to watch these layers."""

    @abstractmethod
    def judged(self, seen: Any) -> Tensor:
        """The scores ``(O,)`` of one layer's filters, from what the watch added up for it; larger stays."""

    def score(self, weight: Tensor) -> Tensor:
        """Weights alone say nothing here.

        Raises:
            MaskError: always.
        """
        raise MaskError(f"{type(self).__name__} scores what it saw in training, not the {tuple(weight.shape)} weight")

    def score_of(self, target: Target, weight: Tensor) -> Tensor:
        """The scores of what was seen of a layer.

        Raises:
            MaskError: no minibatch reached the layer.
        """
        seen = None if self._watch is None else self._watch.sums.get(target.name)
        if seen is None:
            raise MaskError(
                f"{type(self).__name__}: no minibatch has reached {target.name} since compress(), so nothing is known "
                "about its filters: train on data that the layer takes part in, or exclude it"
            )
        scores = self.judged(seen)
        if scores.shape != weight.shape[:1]:
            raise MaskError(f"{target.name} returned {tuple(scores.shape)} channels along the axis where its "
                            f"{weight.shape[0]} filters should lie: exclude the layer")  # fmt: skip
        return scores

    def begin(self) -> None:
        """Watch; with a trainer, train for an epoch and mask."""
        self.start_watching()
        if self.training is None:
            if self.optimizer is not None:
                self._steps = Steps(self.optimizer, after=self._mask_if_ready)
            return
        early = Steps(self.training.optimizer, after=self._mask_if_ready) if self.mid_epoch else None
        try:
            for epoch in self.training.epochs(self.bound_model, 1, f"{type(self).__name__}: watching training"):
                self.training.run(self.bound_model, epoch)
            if self.waiting:
                self.mask()  # an epoch of fewer minibatches than were asked for has to do
        finally:
            if early is not None:
                early.remove()
            self.stop_watching()

    def step(self) -> None:
        """A minibatch has been learnt; needed where the pruner was given no optimizer, harmless elsewhere."""
        self.seen_step()
        self._mask_if_ready()

    def seen_step(self) -> None:
        """A minibatch has been learnt: count it, and mask nothing yet."""
        if isinstance(self._watch, GradientWatch):
            self._watch.step()

    @property
    def waiting(self) -> str:
        """What the pruner waits for; empty where it does not."""
        if self._watch is None:
            return ""
        return f"it has seen {self._watch.batches} of the {self.batches} minibatches that it asks for"

    def start_watching(self) -> None:
        """Forget what was seen, and look again."""
        self.stop_watching()
        self._watch = self.watched({name: target.module for name, target in self.targets.items()})

    def stop_watching(self) -> None:
        """Look no more."""
        for handle in (self._watch, self._steps):
            if handle is not None:
                handle.remove()
        self._watch = self._steps = None

    def _mask_if_ready(self) -> None:
        if self._watch is not None and self._watch.batches >= self.batches:
            self._watch.remove()
            self.mask()
            self.stop_watching()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "gelu": functional.gelu,
}


class _ActivationPruner(DataDrivenPruner):
    """Watches what layers return, behind the activation function that follows them.

    Args:
        activation: ``"relu"``, ``"relu6"`` or ``"gelu"``. The other arguments are :class:`DataDrivenPruner`'s; where
            ``trainer`` is a text, the arguments are those of scripts that train themselves: ``(model, config_list,
            optimizer, activation, statistics_batch_num, dependency_aware, dummy_input)``.
    """

    def __init__(  # noqa: PLR0913 - the arguments of the older toolkit
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        trainer: Callable[..., Any] | str | None = None,
        criterion: Any = None,
        activation: Any = "relu",
        sparsifying_training_batches: Any = 1,
        dependency_aware: bool = False,
        dummy_input: Any = None,
        *,
        statistics_batch_num: int | None = None,
    ) -> None:
        if isinstance(trainer, str):
            earlier = _two_places_earlier(criterion, activation, sparsifying_training_batches)
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
            sparsifying_training_batches if statistics_batch_num is None else statistics_batch_num,
            dependency_aware, dummy_input,
        )  # fmt: skip

    def watched(self, layers: Mapping[str, nn.Module]) -> ActivationWatch:
        """Watch the layers' outputs."""
        return ActivationWatch(
            layers, lambda output, axis: activation_sums(_ACTIVATIONS[self.activation](output), axis)
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
    ICLR 2017, section 2.2.
    """

    def judged(self, seen: Any) -> Tensor:
        """The mean over all entries of a channel."""
        _, total, entries = seen
        return total.cpu() / entries


class TaylorFOWeightFilterPruner(DataDrivenPruner):
    """Removes the filters that the loss would miss least, to first order.

    Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019, section 3.1.
    Weights and gradients are taken just before each step, when they belong together.

    Args:
        sparsifying_training_batches: how many minibatches to look at; ``statistics_batch_num`` is the same. Where
            ``trainer`` is a number, the arguments are those of scripts that train themselves: ``(model, config_list,
            optimizer, statistics_batch_num, dependency_aware, dummy_input)``. All others are
            :class:`DataDrivenPruner`'s.
    """

    mid_epoch = False

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        trainer: Callable[..., Any] | int | None = None,
        criterion: Any = None,
        sparsifying_training_batches: Any = 1,
        dependency_aware: bool = False,
        dummy_input: Any = None,
        *,
        statistics_batch_num: int | None = None,
    ) -> None:
        if isinstance(trainer, int):
            earlier = _two_places_earlier(trainer, criterion, sparsifying_training_batches)
            trainer, criterion = None, None
            sparsifying_training_batches = earlier[0]
            dependency_aware, dummy_input = (
                dependency_aware or earlier[1],
                earlier[2] if dummy_input is None else dummy_input,
            )
        super().__init__(
            model, config_list, optimizer, trainer, criterion,
            sparsifying_training_batches if statistics_batch_num is None else statistics_batch_num,
            dependency_aware, dummy_input,
        )  # fmt: skip

    def watched(self, layers: Mapping[str, nn.Module]) -> GradientWatch:
        """Watch weights and gradients at each step."""
        units = {name: Filter(*output_layout(layer)) for name, layer in layers.items()}

        def measure(name: str, weight: Tensor, grad: Tensor) -> Tensor:
            return first_order(units[name].fold(weight), units[name].fold(grad))

        return GradientWatch(layers, measure, self.optimizer)

    def judged(self, seen: Any) -> Tensor:
        """The sum of squared products of weights and gradients."""
        return seen


def _two_places_earlier(batches: Any, aware: Any, example: Any) -> tuple[Any, bool, Any]:
    """``(batches, dependency_aware, dummy_input)`` as scripts without a trainer give them."""
    return 1 if batches is None else batches, aware is True, None if isinstance(example, int) else example
