"""ADMM: train the weights towards being sparse already, then take away what has become small."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from torchpare.attach.steps import Steps
from torchpare.config import Target
from torchpare.errors import ConfigError
from torchpare.numerics.shards import placed_like, whole
from torchpare.pruning.data_driven import DataDrivenPruner
from torchpare.pruning.granularity import Allocation
from torchpare.pruning.ranked import Criterion, RankedPruner
from torchpare.pruning.training import checked_batches, training_of

__all__ = ["ADMMPruner"]


class ADMMPruner(RankedPruner):
    """Trains weights towards the nearest sparse ones, then prunes by a criterion.

    The loss gains ``row / 2 * |W - Z + U| ** 2`` for each selected weight ``W``. After each iteration ``Z`` becomes the
    sparse weight nearest to ``W + U`` (the Euclidean projection), and the difference ``W - Z`` is added to ``U``.

    Zhang, Ye, Zhang, Tang, Wen, Fardad, Wang, "A Systematic DNN Weight Pruning Framework using Alternating Direction
    Method of Multipliers", ECCV 2018, section 3.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.Entry`.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch.
        criterion: handed to the trainer; cross entropy, if not given. Where it is a number, the arguments are those of
            earlier scripts: ``(model, config_list, trainer, num_iterations, training_epochs, row, base_algo)``.
        num_iterations: how often to look for the nearest sparse weights.
        epochs_per_iteration: epochs of training between; ``training_epochs`` is the same.
        row: the weight of the penalty.
        base_algo: what "sparse" means: ``"level"``, ``"l1"``, ``"l2"``, ``"fpgm"``, or a pruner class of your own.
        optimizer: handed to the trainer; Adam with a learning rate of 1e-3 and a weight decay of 5e-5, if not given.
        dependency_aware: choose channels together where layers can only lose them together.
        dummy_input: an example input, for whole groups from the first mask on.
        allocation: ``mode``, ``balance_gran``, ``group_score``: as every pruner.

    Raises:
        ConfigError: as every pruner, or without a trainer.
    """

    def __init__(  # noqa: PLR0913 - the arguments of the older toolkit
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        trainer: Callable[..., Any],
        criterion: Any = None,
        num_iterations: Any = 30,
        epochs_per_iteration: int = 5,
        row: float = 1e-4,
        base_algo: Criterion = "l1",
        *,
        training_epochs: int | None = None,
        optimizer: Optimizer | None = None,
        dependency_aware: bool = False,
        dummy_input: Any = None,
        **allocation: Unpack[Allocation],
    ) -> None:
        if isinstance(criterion, Optimizer):  # (..., trainer, optimizer, criterion, iterations, training_epochs)
            optimizer, criterion = criterion, None
            if callable(num_iterations):
                criterion, num_iterations, epochs_per_iteration = num_iterations, epochs_per_iteration, int(row) or 5
                row = 1e-4
        if isinstance(criterion, int):  # (..., trainer, num_iterations, training_epochs, row, base_algo)
            earlier = criterion, *_one_place_earlier(num_iterations, epochs_per_iteration, row, base_algo)
            criterion, (num_iterations, epochs_per_iteration, row, base_algo) = None, earlier
        if trainer is None:
            raise ConfigError("ADMMPruner trains while it prunes: give a trainer")
        super().__init__(model, config_list, base_algo, optimizer, dependency_aware, dummy_input, **allocation)
        used = Adam(model.parameters(), lr=1e-3, weight_decay=5e-5) if optimizer is None else optimizer
        if isinstance(self.ranking, DataDrivenPruner):
            raise ConfigError("ADMMPruner looks for the nearest sparse weights, which criteria that look at data "
                              "cannot tell: base_algo is 'level', 'l1', 'l2' or 'fpgm'")  # fmt: skip
        loss = nn.CrossEntropyLoss() if criterion is None else criterion
        self.training = training_of("ADMMPruner", trainer, used, loss)
        epochs = epochs_per_iteration if training_epochs is None else training_epochs
        self.num_iterations = checked_batches("ADMMPruner", "num_iterations", num_iterations)
        self.epochs_per_iteration = checked_batches("ADMMPruner", "epochs_per_iteration", epochs)
        self.row = row
        self._near: dict[str, Tensor] = {}
        self._debt: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Train towards sparse weights, and prune."""
        assert self.training is not None
        self._near = {name: whole(_weight(target).detach()).clone() for name, target in self.targets.items()}
        self._debt = {name: torch.zeros_like(near) for name, near in self._near.items()}
        steps = Steps(self.training.optimizer, before=self._pull)
        try:
            count = self.num_iterations * self.epochs_per_iteration
            for epoch in self.training.epochs(self.bound_model, count, "ADMMPruner: training towards sparse weights"):
                self.training.run(self.bound_model, epoch % self.epochs_per_iteration)
                if (epoch + 1) % self.epochs_per_iteration == 0:
                    self._project()
        finally:
            steps.remove()
            self._near, self._debt = {}, {}
        self.mask()

    @torch.no_grad()
    def _pull(self) -> None:
        """Add the gradient of the penalty."""
        for name, target in self.targets.items():
            weight = _weight(target)
            if weight.grad is not None:
                near, debt = (placed_like(own[name], weight) for own in (self._near, self._debt))
                weight.grad.add_(weight - near + debt, alpha=self.row)

    @torch.no_grad()
    def _project(self) -> None:
        """``Z`` is the sparse weight nearest to ``W + U``; ``U`` adds up what is missing."""
        weights = {name: whole(_weight(target).detach()) for name, target in self.targets.items()}
        moved = {name: weight + self._debt[name] for name, weight in weights.items()}
        scores = {}
        for name, target in self.targets.items():
            unit = self._unit(target)
            scores[name] = unit.gather(self.score_of(target, unit.fold(moved[name])))
        for name, keep in self._choose(scores, self._space if self.dependency_aware else None).items():
            mask = self._unit(self.targets[name]).unfold(keep, moved[name], None)["weight"]
            self._near[name] = moved[name] * mask.to(moved[name].device)
            self._debt[name] += weights[name] - self._near[name]


def _one_place_earlier(epochs: Any, row: Any, base_algo: Any, usual: Criterion) -> tuple[int, float, Criterion]:
    """``(epochs_per_iteration, row, base_algo)`` where they stand in the places of their left neighbours.

    What is not given there has its usual value, or the one that it was given by its name.
    """
    if isinstance(row, float):
        return (epochs, row, base_algo) if isinstance(base_algo, str | type) else (epochs, row, usual)
    return (row if epochs == 30 else epochs), base_algo, usual  # 30: what stands there when nothing is given


def _weight(target: Target) -> nn.Parameter:
    weight = target.module._parameters["weight"]  # noqa: SLF001 - the dense one, which training writes
    assert weight is not None
    return weight
