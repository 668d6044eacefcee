"""The pruners of NNI 3: an evaluator trains, and ``compress(max_steps, max_epochs)`` returns model and masks."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchpare import pruning
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.v3_pruner import V3Pruner, trainer_of

__all__ = [
    "FPGMPruner",
    "L1NormPruner",
    "L2NormPruner",
    "LevelPruner",
    "MovementPruner",
    "SlimPruner",
    "TaylorPruner",
]


class _OneShot(V3Pruner):
    """Of pruners that look at weights once, how they are called."""

    def __init__(
        self, model: nn.Module, config_list: Any, evaluator: Evaluator | None = None, existed_wrappers: Any = None
    ) -> None:
        entries, mode, dummy_input = self.asked(model, config_list, evaluator, existed_wrappers)
        example = dummy_input if self.structured else None
        super().__init__(model, entries, dummy_input=example, mode=mode)


class LevelPruner(_OneShot, pruning.LevelPruner):
    """As :class:`torchpare.pruning.LevelPruner`; the arguments are `V3Pruner`'s."""

    criterion = "level"


class L1NormPruner(_OneShot, pruning.L1FilterPruner):
    """As :class:`torchpare.pruning.L1FilterPruner`; the arguments are `V3Pruner`'s."""

    criterion = "l1"


class L2NormPruner(_OneShot, pruning.L2FilterPruner):
    """As :class:`torchpare.pruning.L2FilterPruner`; the arguments are `V3Pruner`'s."""

    criterion = "l2"


class FPGMPruner(_OneShot, pruning.FPGMPruner):
    """As :class:`torchpare.pruning.FPGMPruner`; the arguments are `V3Pruner`'s."""

    criterion = "fpgm"


class TaylorPruner(V3Pruner, pruning.TaylorFOWeightFilterPruner):
    """Removes the filters that the loss would miss least, to first order in their weights.

    Args:
        model, config_list, evaluator, existed_wrappers: as `V3Pruner`.
        training_steps: how many minibatches to look at.
    """

    criterion = "taylorfo"

    def __init__(
        self, model: nn.Module, config_list: Any, evaluator: Evaluator, training_steps: int,
        existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        entries, mode, dummy_input = self.asked(model, config_list, evaluator, existed_wrappers)
        super().__init__(
            model, entries, sparsifying_training_batches=training_steps, dummy_input=dummy_input, mode=mode
        )

    def begin(self) -> None:
        """Watch while the evaluator trains, and mask."""
        self.tell_changes()
        self.start_watching()
        steps, epochs = self.limits
        try:
            trainer_of(self).run(
                self.bound_model, before=self.step, max_steps=self.batches if steps is None else steps,
                max_epochs=epochs,
            )  # fmt: skip
            if self.waiting:
                self.mask()  # a training of fewer minibatches than were asked for has to do
        finally:
            self.stop_watching()


class SlimPruner(V3Pruner, pruning.SlimPruner):
    """Removes the channels with the smallest batch norm scales, after training these to be sparse.

    Args:
        model, config_list, evaluator, existed_wrappers: as `V3Pruner`; entries reach batch norms, each of which loses
            its own share; with a ``global_group_id`` all together lose one.
        training_steps: how long to train for sparse scales.
        regular_scale: the weight in the loss of the mean of the scales' absolute values.
    """

    def __init__(
        self, model: nn.Module, config_list: Any, evaluator: Evaluator, training_steps: int,
        regular_scale: float = 1.0, existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        entries, mode, dummy_input = self.asked(model, config_list, evaluator, existed_wrappers)
        super().__init__(model, entries, dummy_input=dummy_input, mode=mode)
        scales = sum(view.weight.numel() for view in self.modules_wrapper if view.weight is not None)
        self.scale = regular_scale / max(scales, 1)
        self.limits = training_steps, None

    def begin(self) -> None:
        """Train for sparse scales, and mask."""
        steps, epochs = self.limits
        trainer_of(self).run(self.bound_model, before=self.sparsify, max_steps=steps, max_epochs=epochs)
        super().begin()


class MovementPruner(V3Pruner, pruning.MovementPruner):
    """Zeroes the single weights that training moves towards zero.

    Args:
        model, config_list, evaluator, existed_wrappers: as `V3Pruner`.
        warmup_step: the first step with a mask.
        cooldown_begin_step: the step at which the sparsity is what was asked for.
        regular_scale: not needed: the share that is asked for is met exactly.
    """

    def __init__(
        self, model: nn.Module, config_list: Any, evaluator: Evaluator, warmup_step: int, cooldown_begin_step: int,
        regular_scale: float | None = None, existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        del regular_scale
        entries, _, _ = self.asked(model, config_list, evaluator, existed_wrappers)
        super().__init__(model, entries, warm_up_step=warmup_step, cool_down_beginning_step=cooldown_begin_step)

    def begin(self) -> None:
        """Train the scores to the end."""
        tell("movement")
        super().begin()
        steps, epochs = self.limits
        try:
            trainer_of(self).run(self.bound_model, before=self.step, max_steps=steps, max_epochs=epochs)
        finally:
            self.finish()
