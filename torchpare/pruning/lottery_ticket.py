"""Lottery tickets: train, prune, go back to the start with what is left, and train again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.config import RoundsEntry, Target
from torchpare.errors import ConfigError, MaskError
from torchpare.numerics import compound
from torchpare.numerics.shards import placed_like, reshard
from torchpare.pruning.granularity import Allocation
from torchpare.pruning.ranked import Criterion, RankedPruner

__all__ = ["LotteryTicketPruner"]


class LotteryTicketPruner(RankedPruner):
    """Prunes in rounds, each of which begins where the first one began, with the weights that are left.

    You train: ``for _ in pruner.get_prune_iterations(): pruner.prune_iteration_start(); ...train...``. The first round
    trains the whole model; each later one first prunes by what the weights have become, and then rewinds those that
    are left, the optimizer and the learning rate.

    Frankle, Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR 2019, section 1
    (iterative pruning), no numbered equation. Rewinding to a later epoch than the start: Frankle, Dziugaite, Roy,
    Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.RoundsEntry`. All have the same ``prune_iterations``.
        optimizer: is rewound too, if given.
        lr_scheduler: is rewound too, if given.
        reset_weights: False lets the weights that are left go on from where they are.
        pruning_algorithm: what goes; see :class:`torchpare.pruning.GradualPruner`.
        rewind_epoch: the epoch of the first round to whose beginning to rewind; say ``update_epoch(epoch)`` at the
            start of each epoch, where it is not 0.
        dependency_aware: choose channels together where layers can only lose them together.
        dummy_input: an example input, for whole groups from the first mask on.
        allocation: ``mode``, ``balance_gran``, ``group_score``: as every pruner.

    Raises:
        ConfigError: as every pruner, or for entries with different numbers of rounds.
    """

    entry = RoundsEntry

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        lr_scheduler: Any = None,
        reset_weights: bool = True,
        *,
        pruning_algorithm: Criterion = "level",
        rewind_epoch: int = 0,
        dependency_aware: bool = False,
        dummy_input: Any = None,
        **allocation: Unpack[Allocation],
    ) -> None:
        super().__init__(model, config_list, pruning_algorithm, optimizer, dependency_aware, dummy_input, **allocation)
        rounds = {_rounds(target) for target in self.targets.values()}
        if len(rounds) > 1:
            asked = ", ".join(map(str, sorted(rounds)))
            raise ConfigError(f"LotteryTicketPruner: the entries ask for different 'prune_iterations' ({asked}); all "
                              "layers go through the same rounds")  # fmt: skip
        self.rounds = next(iter(rounds), 1)
        self.lr_scheduler = lr_scheduler
        self.reset_weights = reset_weights
        self.rewind_epoch = rewind_epoch
        self.now_round = -1
        self._start: _Snapshot | None = None

    def get_prune_iterations(self) -> range:
        """The rounds: one with the whole model, then one for each time it is pruned."""
        return range(self.rounds + 1)

    def begin(self) -> None:
        """Remember the start; nothing is pruned before the first round has been trained."""
        self.look_again()
        if self.rewind_epoch == 0:
            self._start = _Snapshot.of(self.bound_model, self.optimizer, self.lr_scheduler)

    def update_epoch(self, epoch: int) -> None:
        """An epoch of yours begins; needed for ``rewind_epoch``, harmless elsewhere."""
        if self._compressed and self._start is None and self.now_round <= 0 and epoch == self.rewind_epoch:
            self._start = _Snapshot.of(self.bound_model, self.optimizer, self.lr_scheduler)

    def prune_iteration_start(self) -> None:
        """A round begins: prune, and go back to the start; the first round does neither.

        Raises:
            MaskError: ``compress()`` was not called, all rounds are over, or the start was never seen.
        """
        if not self._compressed:
            raise MaskError("LotteryTicketPruner: call compress() before the first round")
        if self.now_round >= self.rounds:
            raise MaskError(f"LotteryTicketPruner: all {self.rounds + 1} rounds are over")
        if self.now_round >= 0 and self.reset_weights and self._start is None:
            raise MaskError(
                f"LotteryTicketPruner: rewind_epoch is {self.rewind_epoch}, and update_epoch({self.rewind_epoch}) was "
                "not called in the first round, so there is nothing to go back to"
            )
        self.now_round += 1
        if self.now_round > 0:
            self.mask()
            if self.reset_weights and self._start is not None:
                self._start.restore(self.bound_model, self.optimizer, self.lr_scheduler)
            self.look_again()

    def sparsities(self) -> dict[str, float]:
        """Each layer's sparsity in the present round."""
        share = self.now_round / self.rounds
        return {name: compound(0.0, target.sparsity, share) for name, target in self.targets.items()}

    def progress(self) -> dict[str, Any]:
        """The round, and the start to which each round goes back: as large as the model and its optimizer."""
        start = None if self._start is None else self._start.state_dict()
        return {**super().progress(), "round": self.now_round, "start": start}

    def go_on(self, progress: Mapping[str, Any]) -> None:
        """Stand in that round, with that start to go back to."""
        at, start = int(progress["round"]), progress["start"]
        start = None if start is None else _Snapshot(dict(start["tensors"]), start["optimizer"], start["scheduler"])
        super().go_on(progress)
        self.now_round, self._start = at, start

    @property
    def waiting(self) -> str:
        """What the pruner waits for: the second round."""
        ready = self._compressed and self.now_round < 1
        return "it prunes at the start of the second round: call prune_iteration_start()" if ready else ""


class _Snapshot:
    """Parameters, buffers, optimizer and scheduler as they were; masks are not part of it."""

    def __init__(self, tensors: dict[str, Tensor], optimizer: Any, scheduler: Any) -> None:
        self.tensors, self.optimizer, self.scheduler = tensors, optimizer, scheduler

    @classmethod
    def of(cls, model: nn.Module, optimizer: Optimizer | None, scheduler: Any) -> _Snapshot:
        """Copies of everything."""
        reshard(model)
        tensors = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
        state = None if optimizer is None else copy.deepcopy(optimizer.state_dict())
        return cls(tensors, state, None if scheduler is None else copy.deepcopy(scheduler.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {"tensors": self.tensors, "optimizer": self.optimizer, "scheduler": self.scheduler}

    @torch.no_grad()
    def restore(self, model: nn.Module, optimizer: Optimizer | None, scheduler: Any) -> None:
        """Write everything back, in place: parameters stay the same objects."""
        reshard(model)  # what is written into an unsharded parameter is lost when it is sharded again
        for name, tensor in _tensors(model):
            if name in self.tensors:
                tensor.copy_(placed_like(self.tensors[name], tensor))
        if optimizer is not None and self.optimizer is not None:
            optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        if scheduler is not None and self.scheduler is not None:
            scheduler.load_state_dict(copy.deepcopy(self.scheduler))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    masks = {
        f"{path}.{name}_mask" if path else f"{name}_mask"
        for path, module in model.named_modules()
        for name in getattr(module, "torchpare_masked", ())
    }
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name not in masks)


def _rounds(target: Target) -> int:
    assert isinstance(target.entry, RoundsEntry)
    return target.entry.prune_iterations
