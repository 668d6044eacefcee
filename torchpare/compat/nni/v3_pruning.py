"""The pruners of NNI 3: an evaluator trains, and ``compress(max_steps, max_epochs)`` returns model and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from torchpare import pruning
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.v2_pruning import V2Pruner
from torchpare.compat.nni.v3_config import pruning_of_v3
from torchpare.errors import CompatError

__all__ = [
    "FPGMPruner",
    "L1NormPruner",
    "L2NormPruner",
    "LevelPruner",
    "MovementPruner",
    "SlimPruner",
    "TaylorPruner",
    "V3Pruner",
]


class V3Pruner(V2Pruner):
    """What every pruner of NNI 3 had beside its algorithm.

    Args:
        model: what to prune.
        config_list: in the words of NNI 3, of earlier versions, or of torchpare.
        evaluator: who trains.
        existed_wrappers: must be None: masks are on the model already.
    """

    criterion: ClassVar[str | None] = None
    """The word by which schedules know what goes; None where they cannot use it."""

    limits: tuple[int | None, int | None] = (None, None)
    """``(steps, epochs)`` to train for."""

    def asked(self, model: nn.Module, config_list: Any, evaluator: Any, existed_wrappers: Any) -> tuple[Any, Any, Any]:
        """``(entries, mode, dummy_input)`` in our words.

        Raises:
            ConfigError, CompatError: an argument cannot be used.
        """
        check_evaluator(evaluator, existed_wrappers, type(self).__name__)
        self.evaluator = evaluator
        own = None if evaluator is None else evaluator.dummy_input
        found = pruning_of_v3(model, config_list, self.supported, self.default or self.supported, own)
        return found.entries, found.mode, found.dummy_input if found.dummy_input is not None else own

    @classmethod
    def from_compressor(
        cls, compressor: Any, new_config_list: Any, *args: Any, evaluator: Evaluator | None = None, **named: Any
    ) -> Self:
        """A pruner of another compressor's model, on top of what is on it already.

        Args:
            compressor: whose model and, where none is given, whose evaluator.
            new_config_list: what to prune.
            args, named: the further arguments of the pruner, behind the evaluator.
            evaluator: who trains.
        """
        chosen = evaluator or getattr(compressor, "evaluator", None)
        return cls(compressor.bound_model, new_config_list, chosen, *args, **named)  # type: ignore[call-arg] - each subclass takes these three

    def compress(self, max_steps: int | None = None, max_epochs: int | None = None) -> Any:
        """Prune, training where the algorithm does, and return ``(model, masks)``."""
        if max_steps is not None or max_epochs is not None:
            self.limits = max_steps, max_epochs
        return super().compress()

    def generate_masks(self) -> dict[str, dict[str, Tensor]]:
        """Mask by what the weights are now, and return the masks."""
        self.mask()
        return self.get_masks()

    def get_masks(self) -> Any:
        """The masks: zeros and ones of the parameters' shapes."""
        return self.found_masks()

    def update_masks(self, masks: Mapping[str, Mapping[str, Tensor | None]]) -> None:
        """Put masks on the model.

        Raises:
            MaskError: they do not fit it; it is as it was.
        """
        self.load_masks(masks)

    def wrap_model(self) -> None:
        """Put the masks on again, after `unwrap_model`."""
        self._wrap_model()

    def unwrap_model(self) -> None:
        """Plain layers with the zeros written in."""
        self._unwrap_model()

    @torch.no_grad()
    def track_forward(self, *args: Any, **named: Any) -> None:
        """Run the model once, so that masks cover whole groups."""
        self.bound_model(*args, **named)


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
    """Removes the channels with the smallest batch norm scales of the whole model, after training these to be sparse.

    Args:
        model, config_list, evaluator, existed_wrappers: as `V3Pruner`; entries reach batch norms.
        training_steps: how long to train for sparse scales.
        regular_scale: the weight in the loss of the mean of the scales' absolute values.
    """

    def __init__(
        self, model: nn.Module, config_list: Any, evaluator: Evaluator, training_steps: int,
        regular_scale: float = 1.0, existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        entries, _, dummy_input = self.asked(model, config_list, evaluator, existed_wrappers)
        super().__init__(model, entries, dummy_input=dummy_input)
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


def check_evaluator(evaluator: Any, existed_wrappers: Any, name: str) -> None:
    """Refuse what is no evaluator, and wrappers.

    Raises:
        CompatError: they cannot be used.
    """
    if existed_wrappers:
        raise CompatError(f"{name}: existed_wrappers: there are none here; masks and quantizers are on the model, and "
                          "another compressor adds to them")  # fmt: skip
    if evaluator is not None and not isinstance(evaluator, Evaluator):
        raise CompatError(f"{name}: evaluator is a {type(evaluator).__name__}; it is a TorchEvaluator, a "
                          "LightningEvaluator or a TransformersEvaluator")  # fmt: skip


def trainer_of(compressor: Any) -> Evaluator:
    """The evaluator of a compressor that trains.

    Raises:
        CompatError: it has none.
    """
    if compressor.evaluator is None:
        raise CompatError(f"{type(compressor).__name__} trains while it compresses: give it an evaluator")
    return compressor.evaluator
