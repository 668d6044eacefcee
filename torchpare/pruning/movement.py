"""Movement pruning: what fine-tuning moves towards zero goes, however large it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from torchpare.attach import attach_masks, masks_of
from torchpare.attach.ranks import averages_over_ranks
from torchpare.attach.steps import Steps
from torchpare.attach.watch import MaskGradientWatch
from torchpare.config import WEIGHTED, Target
from torchpare.errors import ConfigError
from torchpare.numerics import cubic, with_warm_up
from torchpare.pruning.base import Pruner
from torchpare.pruning.granularity import Allocation
from torchpare.pruning.training import checked_batches, in_order, training_of
from torchpare.types import Masks

__all__ = ["MovementPruner"]


class MovementPruner(Pruner):
    """Zeroes the single weights that training moves towards zero; made for fine-tuning a model that was trained before.

    Each weight has a score, which starts at zero and is trained along with it: the mask keeps the highest scores, and
    the score's gradient is the masked weight's, times the weight, as if the mask were the score (straight through).
    So a weight that was masked can come back. Sparsity grows by a cubic between ``warm_up_step`` and
    ``cool_down_beginning_step``.

    Sanh, Wolf, Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020, section 4; the sparsity: Zhu,
    Gupta, 2017, equation 1.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.Entry`.
        optimizer: steps the weights; its steps count.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch. Without it, you train
            after ``compress()``, and say ``step()`` after each minibatch if there is no optimizer.
        criterion: handed to the trainer.
        training_epochs: how many epochs ``compress()`` trains.
        warm_up_step: the first step with a mask.
        cool_down_beginning_step: the step at which the sparsity is what was asked for.
        scores_lr: learning rate of the scores, which Adam trains.
        allocation: ``mode``, ``balance_gran``: as every pruner. Patterns are whole from the first mask on; a block is
            worth the mean of its scores.

    Raises:
        ConfigError: as every pruner, or for steps that do not follow each other.
    """

    supported = WEIGHTED
    structured = False

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | Callable[..., Any] | None = None,
        trainer: Callable[..., Any] | Optimizer | None = None,
        criterion: Any = None,
        training_epochs: int = 1,
        warm_up_step: int = 0,
        cool_down_beginning_step: int = 1,
        *,
        scores_lr: float = 1e-2,
        **allocation: Unpack[Allocation],
    ) -> None:
        steps, trains = in_order(optimizer, trainer)
        super().__init__(model, config_list, steps, **allocation)
        if not 0 <= warm_up_step < cool_down_beginning_step:
            raise ConfigError(f"MovementPruner: warm_up_step is {warm_up_step} and cool_down_beginning_step "
                              f"{cool_down_beginning_step}; the second comes after the first")  # fmt: skip
        self.training = training_of("MovementPruner", trains, steps, criterion)
        self.epochs = checked_batches("MovementPruner", "training_epochs", training_epochs)
        self.warm_up_step, self.cool_down_beginning_step = warm_up_step, cool_down_beginning_step
        self.scores_lr = scores_lr
        self.now_step = 0
        self.weight_scores: dict[str, Tensor] = {}
        """The trained scores, by layer, of the weights' shapes; there are some from ``compress()`` on."""
        self._watch: MaskGradientWatch | None = None
        self._steps: Steps | None = None
        self._trained_by: Adam | None = None
        self._given: dict[str, Tensor] = {}

    def score(self, weight: Tensor) -> Tensor:
        """Nothing moved yet: all weights are alike."""
        return torch.zeros_like(weight)

    def score_of(self, target: Target, weight: Tensor) -> Tensor:
        """The trained scores."""
        del weight
        return self.weight_scores[target.name].detach()

    def sparsities(self) -> dict[str, float]:
        """Each layer's sparsity at the present step."""
        share = with_warm_up(self.now_step, warm_up=self.warm_up_step, cool_down=self.cool_down_beginning_step)
        return {name: cubic(0.0, target.sparsity, share) for name, target in self.targets.items()}

    def begin(self) -> None:
        """Give every weight a score; with a trainer, train them to the end."""
        weights = {name: _weight(target) for name, target in self.targets.items()}
        # Whole, also where weights are sharded: every process trains the same scores.
        self.weight_scores = {
            name: torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device, requires_grad=True)
            for name, weight in weights.items()
        }
        self._trained_by = Adam(self.weight_scores.values(), lr=self.scores_lr)
        everything = {name: {"weight": torch.ones(weight.shape, dtype=torch.bool)} for name, weight in weights.items()}
        before = masks_of(self.bound_model)
        self._given = {name: before[name]["weight"] for name in self.targets if "weight" in before.get(name, {})}
        attach_masks(self.bound_model, {**everything, **before})
        self._begin_to_watch()
        if self.training is not None:
            try:
                for epoch in self.training.epochs(self.bound_model, self.epochs, "MovementPruner: training scores"):
                    self.training.run(self.bound_model, epoch)
            finally:
                self.finish()

    def step(self) -> None:
        """A minibatch has been learnt; needed where the pruner was given no optimizer, harmless elsewhere."""
        if self._watch is not None and self._steps is None:
            self._learnt()

    def finish(self) -> None:
        """Train the scores no more; the masks stay as they are. To be said where you train, before you export."""
        for handle in (self._watch, self._steps):
            if handle is not None:
                handle.remove()
        self._watch = self._steps = None

    @property
    def counts_steps(self) -> bool:
        """Whether it trains scores, or will, while you train weights."""
        return self.training is None and (self._watch is not None or not self._compressed)

    def hang_on(self, optimizer: Optimizer) -> None:
        """Train the scores with each step of this optimizer."""
        if self._watch is not None:
            if self._steps is not None:
                self._steps.remove()
            self._steps = Steps(optimizer, before=self._learnt)

    def progress(self) -> dict[str, Any]:
        """The scores, how they are trained, the step, and what was masked before the pruner came."""
        return {
            "step": self.now_step,
            "scores": {name: own.detach().clone() for name, own in self.weight_scores.items()},
            "trained_by": None if self._trained_by is None else self._trained_by.state_dict(),
            "given": dict(self._given),
            "finished": self._watch is None,
        }

    @torch.no_grad()
    def go_on(self, progress: Mapping[str, Any]) -> None:
        """Train these scores on, from that step."""
        step, scores, given = int(progress["step"]), progress["scores"], dict(progress["given"])
        for name, own in self.weight_scores.items():
            if scores[name].shape != own.shape:
                raise ValueError(f"scores of shape {tuple(scores[name].shape)} for the {tuple(own.shape)} of {name}")
        assert self._trained_by is not None
        self._trained_by.load_state_dict(progress["trained_by"])
        for name, own in self.weight_scores.items():
            own.copy_(scores[name])
        self.now_step, self._given = step, given
        if progress["finished"]:
            self.finish()
        elif self._watch is None:
            self._begin_to_watch()

    def mask(self) -> None:
        """Mask by the scores. What they masked before may come back, what was masked before ``compress()`` may not."""
        units = {name: self._unit(target) for name, target in self.targets.items()}
        scores = {name: unit.gather(self.weight_scores[name].detach()) for name, unit in units.items()}
        masks: Masks = {}
        for name, keep in self.select(scores, self.sparsities()).items():
            mask = units[name].unfold(keep, self.weight_scores[name], None)["weight"]
            masks[name] = {"weight": mask & self._given[name].to(mask.device) if name in self._given else mask}
        attach_masks(self.bound_model, masks)

    def _begin_to_watch(self) -> None:
        layers = {name: target.module for name, target in self.targets.items()}
        self._watch = MaskGradientWatch(layers, lambda weight, grad: weight * grad)
        if self.optimizer is not None:
            self._steps = Steps(self.optimizer, before=self._learnt)

    @torch.no_grad()
    def _come_along(self, trained_by: Adam) -> None:
        """A model that was moved since ``compress()`` has its weights elsewhere: the scores follow them."""
        homes = {name: _weight(target).device for name, target in self.targets.items()}
        if any(own.device != homes[name] for name, own in self.weight_scores.items()):
            for name, own in self.weight_scores.items():
                own.data = own.data.to(homes[name])
            trained_by.load_state_dict(trained_by.state_dict())  # which moves what Adam remembers

    def _learnt(self) -> None:
        """Train the scores by the gradients of this minibatch, and mask by them."""
        assert self._watch is not None
        assert self._trained_by is not None
        self._come_along(self._trained_by)
        for name, grad in averages_over_ranks(self._watch.take(), self.weight_scores).items():
            self.weight_scores[name].grad = grad
        self._trained_by.step()
        self._trained_by.zero_grad()
        self.now_step += 1
        if self.now_step > self.warm_up_step:
            self.mask()


def _weight(target: Target) -> nn.Parameter:
    weight = target.module._parameters["weight"]  # noqa: SLF001 - the dense one
    assert weight is not None
    return weight
