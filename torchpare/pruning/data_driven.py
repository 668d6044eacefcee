"""Pruners that ask data: filters that seldom fire, that pass little on, or that the loss would not miss.

They watch the model while it trains and mask it when they have seen enough. Who trains is up to you: give a ``trainer``
and ``compress()`` runs it for one epoch; give none, and after ``compress()`` the masks appear while you train, after as
many minibatches as were asked for. Minibatches are told by the optimizer's own steps, or by ``pruner.step()`` where the
pruner knows no optimizer. Where processes train together, what all of them saw counts, and all have to take each step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach.ranks import fewest_over_ranks
from torchpare.attach.steps import Steps
from torchpare.attach.watch import Watch, dense_weight
from torchpare.config import Target
from torchpare.errors import MaskError
from torchpare.pruning.granularity import Allocation
from torchpare.pruning.one_shot import FilterPruner
from torchpare.pruning.training import checked_batches, in_order, training_of

__all__ = ["DataDrivenPruner", "two_places_earlier"]


class DataDrivenPruner(FilterPruner):
    """Base of the pruners that watch training: say what to watch, and what a filter's score is of what was seen.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.Entry`.
        optimizer: whose steps count minibatches; it may change places with ``trainer``.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch. Without it, you train
            after ``compress()``.
        criterion: handed to the trainer.
        sparsifying_training_batches: how many minibatches to look at.
        dependency_aware: choose channels together where layers can only lose them together.
        dummy_input: an example input, for whole groups from the first mask on.
        allocation: ``mode``, ``group_score``: as every pruner.

    Raises:
        ConfigError: as every pruner, or for a trainer without an optimizer.
    """

    mid_epoch = True
    """Whether masks appear as soon as enough was seen, while a trainer still runs; otherwise when its epoch is over."""

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | Callable[..., Any] | None = None,
        trainer: Callable[..., Any] | Optimizer | None = None,
        criterion: Any = None,
        sparsifying_training_batches: int = 1,
        dependency_aware: bool | str = False,
        dummy_input: Any = None,
        **allocation: Unpack[Allocation],
    ) -> None:
        steps, trains = in_order(optimizer, trainer)
        if isinstance(dependency_aware, str):  # scripts of later versions say the mode in this place
            dependency_aware, allocation["mode"] = False, dependency_aware
        super().__init__(model, config_list, steps, dependency_aware, dummy_input, **allocation)
        name = type(self).__name__
        self.training = training_of(name, trains, steps, self.criterion_of(criterion))
        self.batches = checked_batches(name, "sparsifying_training_batches", sparsifying_training_batches)
        self._watch: Watch | None = None
        self._device: torch.device | None = None
        self._steps: Steps | None = None

    @abstractmethod
    def watched(self, layers: Mapping[str, nn.Module]) -> Watch:
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
        seen = None if self._watch is None else self._watch.over_ranks(target.name)
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

    def criterion_of(self, criterion: Any) -> Any:
        """What a trainer is handed as its criterion: the user's own, unless the loss has to be watched."""
        return criterion

    def begin(self) -> None:
        """Watch; with a trainer, train for an epoch and mask."""
        self.start_watching()
        if self.training is None:
            if self.optimizer is not None:
                self._steps = Steps(self.optimizer, after=self.mask_if_ready)
            return
        enough = Steps(self.training.optimizer, after=self.mask_if_ready if self.mid_epoch else self._rest_if_ready)
        try:
            for epoch in self.training.epochs(self.bound_model, 1, f"{type(self).__name__}: watching training"):
                self.training.run(self.bound_model, epoch)
            if self.waiting:
                self.mask()  # an epoch of fewer minibatches than were asked for has to do
        finally:
            enough.remove()
            self.stop_watching()

    def step(self) -> None:
        """A minibatch has been learnt; needed where the pruner was given no optimizer, harmless elsewhere."""
        self.seen_step()
        if self._steps is None:  # or the optimizer's own hook has done it, which must not be taken off from here
            self.mask_if_ready()

    def seen_step(self) -> None:
        """A minibatch has been learnt: count it, and mask nothing yet."""
        if self._watch is not None:
            self._watch.step()

    @property
    def waiting(self) -> str:
        """What the pruner waits for; empty where it does not."""
        if self._watch is None:
            return ""
        # Several batches may make one step, behind which the masks come: then more were seen than it asks for.
        seen = min(self._watch.batches, self.batches)
        return f"it has seen {seen} of the {self.batches} minibatches that it asks for"

    @property
    def looks(self) -> bool:
        """Whether it watches now."""
        return self._watch is not None

    @property
    def counts_steps(self) -> bool:
        """Whether it watches, or will, while you train."""
        return self.training is None and (self.looks or not self._compressed)

    def hang_on(self, optimizer: Optimizer) -> None:
        """Count the steps of this optimizer; what was seen counts on."""
        if self._watch is None:
            return
        seen, masks_too = self._watch.state_dict(), self._compressed
        self.start_watching()
        self._watch.load_state_dict(seen)
        if masks_too:
            self._steps = Steps(optimizer, after=self.mask_if_ready)

    def progress(self) -> dict[str, Any]:
        """What was seen; nothing, where it no longer looks."""
        return {"seen": None if self._watch is None else self._watch.state_dict()}

    def go_on(self, progress: Mapping[str, Any]) -> None:
        """Have seen what is in there, and look on, or look no more."""
        seen = progress["seen"]
        if seen is None:
            self.stop_watching()
            return
        if not set(seen["sums"]) <= set(self.targets):
            raise ValueError("sums of other layers")
        if self._watch is None:
            self.start_watching()
            if self._compressed and self.optimizer is not None:
                self._steps = Steps(self.optimizer, after=self.mask_if_ready)
        assert self._watch is not None
        self._watch.load_state_dict(seen)

    def start_watching(self) -> None:
        """Forget what was seen, and look again."""
        self.stop_watching()
        layers = {name: target.module for name, target in self.targets.items()}
        self._device = next((dense_weight(layer).device for layer in layers.values()), None)
        self._watch = self.watched(layers)

    def stop_watching(self) -> None:
        """Look no more."""
        for handle in (self._watch, self._steps):
            if handle is not None:
                handle.remove()
        self._watch = self._steps = None

    def _seen_enough(self) -> bool:
        # Processes that train together have to agree on it, or some would wait for ever for the scores of others.
        return self._watch is not None and fewest_over_ranks(self._watch.batches, self._device) >= self.batches

    def _rest_if_ready(self) -> None:
        """Look no more once enough was seen; what was seen stays until it is judged."""
        if self._seen_enough() and self._watch is not None:
            self._watch.remove()

    def mask_if_ready(self) -> None:
        """Mask, and look no more, once enough was seen."""
        if self._seen_enough():
            self._rest_if_ready()
            self.mask()
            self.stop_watching()


def two_places_earlier(batches: Any, aware: Any, example: Any) -> tuple[Any, bool, Any]:
    """``(batches, dependency_aware, dummy_input)`` as scripts without a trainer give them."""
    return 1 if batches is None else batches, aware is True, None if isinstance(example, int) else example
