"""Pruning more from epoch to epoch, so that what is left can take over what goes.

Who trains is up to you: give a ``trainer`` and ``compress()`` runs it, epoch by epoch, with a mask after each that is
due; give none, and you say ``update_epoch(epoch)`` at the start of each epoch of your own, which masks where it is due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Unpack

import torch
from torch import nn
from torch.optim import Optimizer

from torchpare.config import GradualEntry, Target, read_entries
from torchpare.errors import ConfigError
from torchpare.numerics import SCHEDULES, Schedule, at_epoch, drop_count
from torchpare.pruning.granularity import Allocation
from torchpare.pruning.ranked import Criterion, RankedPruner
from torchpare.pruning.training import checked_batches, training_of

__all__ = ["AGPPruner", "GradualPruner", "LinearPruner"]


class GradualPruner(RankedPruner):
    """Prunes by any criterion, more from epoch to epoch; a subclass says by which schedule.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.GradualEntry`, whose ``initial_sparsity``,
            ``start_epoch``, ``end_epoch`` and ``frequency`` give single layers a schedule of their own.
        optimizer: steps the weights; criteria that look at gradients count its steps.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch. Without it, you train
            and call ``update_epoch``. In its place scripts may give ``pruning_algorithm``, as fourth argument.
        criterion: handed to the trainer.
        num_iterations: how often to prune.
        epochs_per_iteration: epochs from one mask to the next.
        pruning_algorithm: what goes: ``"level"``, ``"l1"``, ``"l2"``, ``"fpgm"``, ``"slim"``, ``"taylorfo"``,
            ``"taylorfo_activation"``, ``"hessian"``, ``"apoz"``, ``"mean_activation"``, ``"random"``, or a pruner class
            of your own. Those that look at data see it anew for each mask. ``"slim"`` ranks the scales as your training
            leaves them, as the older toolkit does in iterations: to train them sparse as :class:`SlimPruner` does, say
            ``pruner.ranking.sparsify()`` between ``backward()`` and ``optimizer.step()``.
        dependency_aware: choose channels together where layers can only lose them together.
        dummy_input: an example input, for whole groups from the first mask on.
        schedule: ``"cubic"``, ``"linear"``, ``"compound"``, ``"one_shot"``, or a function of your own: ``(initial
            sparsity, final sparsity, progress) -> sparsity``.
        allocation: ``mode``, ``balance_gran``, ``group_score``: as every pruner. Layers that share what goes have one
            schedule.

    Raises:
        ConfigError: as every pruner, or for an unknown criterion or schedule.
    """

    entry = GradualEntry
    usual: ClassVar[str]
    """The schedule, where none is given."""

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of the older toolkit
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        trainer: Callable[..., Any] | str | None = None,
        criterion: Any = None,
        num_iterations: int = 10,
        epochs_per_iteration: int = 1,
        pruning_algorithm: Criterion = "level",
        dependency_aware: bool = False,
        dummy_input: Any = None,
        *,
        schedule: str | Schedule | None = None,
        **allocation: Unpack[Allocation],
    ) -> None:
        name = type(self).__name__
        if isinstance(trainer, str):
            trainer, pruning_algorithm = None, trainer
        super().__init__(model, config_list, pruning_algorithm, optimizer, dependency_aware, dummy_input, **allocation)
        self.training = training_of(name, trainer, optimizer, self.criterion_of(criterion))
        self.num_iterations = checked_batches(name, "num_iterations", num_iterations)
        self.freq = checked_batches(name, "epochs_per_iteration", epochs_per_iteration)
        self.schedule = _schedule(name, self.usual if schedule is None else schedule)
        self.now_epoch = 0
        self._dropped: dict[str, int] = {}
        entries = (_entry(target) for target in self.targets.values())
        if self._together and len({(entry.initial_sparsity, self._epochs_of(entry)) for entry in entries}) > 1:
            raise ConfigError(f"{name}: all layers share what goes, so they have one schedule: say the same "
                              "initial_sparsity, start_epoch, end_epoch and frequency in all entries")  # fmt: skip

    @property
    def end_epoch(self) -> int:
        """The first epoch after the schedule, for entries that do not give their own."""
        return self.num_iterations * self.freq

    def compute_target_sparsity(self, config: Mapping[str, Any] | GradualEntry) -> float:
        """The sparsity that an entry asks for in the present epoch."""
        if isinstance(config, GradualEntry):
            entry = config
        else:  # whom it reaches is not asked here
            (entry,) = read_entries([{"op_types": ["default"], **config}], GradualEntry)
        start, end, every = self._epochs_of(entry)
        progress = at_epoch(self.now_epoch, start=start, end=end, every=every)
        return self.schedule(entry.initial_sparsity, entry.sparsity or 0.0, progress)

    def sparsities(self) -> dict[str, float]:
        """Each layer's sparsity in the present epoch; none before its first."""
        return {
            name: self.compute_target_sparsity(_entry(target)) if self.now_epoch >= _entry(target).start_epoch else 0.0
            for name, target in self.targets.items()
        }

    def begin(self) -> None:
        """With a trainer, train and prune by turns to the end of the schedule; without, wait for `update_epoch`."""
        self.look_again()
        if self.training is None:
            return
        try:
            for epoch in self.training.epochs(self.bound_model, self._last_epoch(), f"{type(self).__name__}: pruning"):
                self.now_epoch = epoch
                self.training.run(self.bound_model, epoch)
                self._mask_if_due()
        finally:
            self.look_no_more()

    def update_epoch(self, epoch: int) -> None:
        """An epoch of yours begins; masks where the schedule moves. Harmless where a trainer trains."""
        if not self._compressed or self.training is not None:
            return
        self.now_epoch = epoch
        self._mask_if_due()
        if epoch + 1 >= self._last_epoch():
            self.look_no_more()

    def progress(self) -> dict[str, Any]:
        """The epoch, how much of each layer is pruned by now, and what the criterion has seen."""
        return {**super().progress(), "epoch": self.now_epoch, "dropped": dict(self._dropped)}

    def go_on(self, progress: Mapping[str, Any]) -> None:
        """Stand at that epoch of the schedule."""
        dropped = {str(name): int(count) for name, count in progress["dropped"].items()}
        epoch = int(progress["epoch"])
        super().go_on(progress)
        self.now_epoch, self._dropped = epoch, dropped

    @property
    def waiting(self) -> str:
        """What the pruner waits for: the first epoch with a mask."""
        ready = self._compressed and not self._dropped and self.training is None
        return "it prunes epoch by epoch, and update_epoch(epoch) has not yet reached one that prunes" if ready else ""

    def _mask_if_due(self) -> None:
        due = [name for name, target in self.targets.items() if self._is_due(_entry(target))]
        counts = self._to_drop()
        # Nothing is scored where nothing goes: before the first mask there may be nothing to score by.
        if due and counts != self._dropped and (any(counts.values()) or self._is_over()):
            self.mask()
            self._dropped = counts
            self.look_again()

    @property
    def _together(self) -> bool:
        return self.shared or self.mode == "global"

    def _to_drop(self) -> dict[str, int]:
        """How many units are to be gone by now, of each layer; of all, where they share what goes."""
        shares = self.sparsities()
        if self._together:
            return {"": drop_count(sum(map(self._units, shares)), next(iter(shares.values())))}
        return {name: drop_count(self._units(name), share) for name, share in shares.items()}

    def _is_over(self) -> bool:
        """Whether the schedules stand at their ends."""
        return self.sparsities() == {name: target.sparsity for name, target in self.targets.items()}

    def _is_due(self, entry: GradualEntry) -> bool:
        start, _, every = self._epochs_of(entry)
        return self.now_epoch >= start and (self.now_epoch - start) % every == 0

    def _epochs_of(self, entry: GradualEntry) -> tuple[int, int, int]:
        if entry.end_epoch is None:
            return entry.start_epoch, entry.start_epoch + self.end_epoch, self.freq
        return entry.start_epoch, entry.end_epoch, entry.frequency

    def _last_epoch(self) -> int:
        return max(self._epochs_of(_entry(target))[1] for target in self.targets.values())

    def _units(self, name: str) -> int:
        target = self.targets[name]
        weight = target.module._parameters["weight"]  # noqa: SLF001 - its shape
        assert weight is not None
        shape = torch.empty(weight.shape, device="meta")  # a sharded weight could not be folded
        return len(self._unit(target).fold(shape)) if self.structured else weight.numel()


class AGPPruner(GradualPruner):
    """Automated gradual pruning: fast at first, while there is much to spare, and slow at the end.

    Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017, equation 1.
    The arguments are :class:`GradualPruner`'s.
    """

    usual = "cubic"


class LinearPruner(GradualPruner):
    """Plain iterative pruning: as much in every iteration. The arguments are :class:`GradualPruner`'s."""

    usual = "linear"


def _entry(target: Target) -> GradualEntry:
    assert isinstance(target.entry, GradualEntry)
    return target.entry


def _schedule(name: str, given: str | Schedule) -> Schedule:
    if callable(given):
        return given
    if given not in SCHEDULES:
        raise ConfigError(f"{name}: schedule is {given!r}; it is one of {', '.join(map(repr, SCHEDULES))}, or a "
                          "function (initial sparsity, final sparsity, progress) -> sparsity")  # fmt: skip
    return SCHEDULES[given]
