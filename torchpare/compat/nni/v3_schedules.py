"""The schedules of NNI 3: ``LinearPruner(pruner, interval_steps, total_times)`` prunes by another one, bit by bit."""

from __future__ import annotations

import logging
from typing import Self

from torchpare import pruning
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.v3_pruner import V3Pruner, check_evaluator, trainer_of
from torchpare.compat.nni.views import entry_of
from torchpare.errors import CompatError
from torchpare.pruning.training import checked_batches

__all__ = ["AGPPruner", "LinearPruner"]

log = logging.getLogger(__name__)


class _Scheduled(V3Pruner, pruning.GradualPruner):
    """Prunes more from interval to interval of the evaluator's training.

    Args:
        pruner: what to prune, where and by what; it must not have pruned yet.
        interval_steps: steps from one mask to the next.
        total_times: how often to prune.
        evaluator: who trains; the pruner's, if not given.
    """

    def __init__(
        self, pruner: V3Pruner, interval_steps: int, total_times: int, evaluator: Evaluator | None = None
    ) -> None:
        name = type(self).__name__
        if not isinstance(pruner, V3Pruner) or pruner.criterion is None:
            raise CompatError(f"{name}: pruner is a {type(pruner).__name__}; it is a LevelPruner, L1NormPruner, "
                              "L2NormPruner, FPGMPruner or TaylorPruner")  # fmt: skip
        check_evaluator(evaluator, None, name)
        entries = [{**entry_of(target), "op_names": [layer]} for layer, target in pruner.targets.items()]
        super().__init__(
            pruner.bound_model, [{k: v for k, v in entry.items() if k != "op_types"} for entry in entries],
            num_iterations=checked_batches(name, "total_times", total_times) + 1, pruning_algorithm=pruner.criterion,
            dependency_aware=pruner.dependency_aware, dummy_input=pruner.dummy_input,
        )  # fmt: skip
        self.evaluator = pruner.evaluator if evaluator is None else evaluator
        self.earlier = pruner.earlier
        self.interval_steps = checked_batches(name, "interval_steps", interval_steps)
        self._steps = 0

    @classmethod
    def from_compressor(  # type: ignore[override] - NNI's own, which differs from that of other pruners
        cls, compressor: V3Pruner, interval_steps: int, total_times: int, evaluator: Evaluator | None = None
    ) -> Self:
        """As calling the class; the arguments are the same."""
        return cls(compressor, interval_steps, total_times, evaluator)

    def begin(self) -> None:
        """Let the evaluator train, and prune after each interval."""
        self.tell_changes()
        self.look_again()
        steps, epochs = self.limits
        try:
            trainer_of(self).run(self.bound_model, before=self._learnt, max_steps=steps, max_epochs=epochs)
        finally:
            self.look_no_more()
        if self.now_epoch < self.num_iterations - 1:
            log.warning("%s: the training ended after %d steps, in which it pruned %d of %d times",
                        type(self).__name__, self._steps, self.now_epoch, self.num_iterations - 1)  # fmt: skip

    def _learnt(self) -> None:
        self.step()
        self._steps += 1
        times, rest = divmod(self._steps, self.interval_steps)
        if rest == 0 and times < self.num_iterations:
            self.now_epoch = times
            self._mask_if_due()


class LinearPruner(_Scheduled, pruning.LinearPruner):
    """Prunes as much after each interval of the evaluator's training.

    Args:
        pruner: what to prune, where and by what; it must not have pruned yet.
        interval_steps: steps from one mask to the next.
        total_times: how often to prune.
        evaluator: who trains; the pruner's, if not given.
    """


class AGPPruner(_Scheduled, pruning.AGPPruner):
    """Prunes fast at first, while there is much to spare; the arguments are those of `LinearPruner`."""
