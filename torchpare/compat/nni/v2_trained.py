"""The pruners of NNI 2.5 to 2.10 that train for as long as they are told, and prune by what training did."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchpare import pruning
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.forms import (
    called_with,
    check_movement,
    epochs_of,
    evaluator_form,
    example_of,
    with_traced,
    without_epoch,
)
from torchpare.compat.nni.v2_config import take_key
from torchpare.compat.nni.v2_pruning import V2Pruner

__all__ = ["ADMMPruner", "MovementPruner", "SlimPruner"]


class SlimPruner(V2Pruner, pruning.SlimPruner):
    """Removes the channels with the smallest batch norm scales of the whole model, after training these to be sparse.

    Args:
        model: what to prune.
        config_list: entries in the words of NNI or torchpare.
        args, named: ``(evaluator, training_epochs, scale=0.0001, mode="global")``, or ``(trainer, traced_optimizer,
            criterion, training_epochs, scale=0.0001, mode="global")``.
    """

    def __init__(self, model: nn.Module, config_list: Any, *args: Any, **named: Any) -> None:
        def trained(trainer: Any, traced_optimizer: Any, criterion: Any, training_epochs: int, scale: float = 1e-4,
                    mode: str = "global", dummy_input: Any = None) -> dict[str, Any]:  # fmt: skip
            own = {"optimizer": traced_optimizer, "trainer": without_epoch(trainer), "criterion": criterion}
            return {**own, "training_epochs": training_epochs, "scale": scale, "mode": mode, "dummy_input": dummy_input}

        def evaluated(evaluator: Evaluator, training_epochs: int, scale: float = 1e-4, mode: str = "global"
                      ) -> dict[str, Any]:  # fmt: skip
            self.evaluator = evaluator
            return {"training_epochs": training_epochs, "scale": scale, "mode": mode,
                    "dummy_input": example_of(evaluator, None)}  # fmt: skip

        form = evaluated if evaluator_form(args, named) else trained
        super().__init__(model, config_list, **called_with("SlimPruner", form, args, with_traced(named)))

    def begin(self) -> None:
        """Train for sparse scales, by the evaluator if there is one; then mask."""
        if self.evaluator is not None:
            self.evaluator.run(self.bound_model, before=self.sparsify, max_epochs=self.epochs)
        super().begin()


class ADMMPruner(V2Pruner, pruning.ADMMPruner):
    """Trains weights towards the nearest sparse ones, then prunes.

    Args:
        model: what to prune.
        config_list: entries in the words of NNI or torchpare; ``rho`` is the weight of the penalty.
        args, named: ``(evaluator, iterations, training_epochs, granularity="fine-grained")``, or ``(trainer,
            traced_optimizer, criterion, iterations, training_epochs, granularity="fine-grained")``. The evaluator is a
            `TorchEvaluator`.
    """

    def __init__(self, model: nn.Module, config_list: Any, *args: Any, **named: Any) -> None:
        def trained(trainer: Any, traced_optimizer: Any, criterion: Any, iterations: int, training_epochs: int,
                    granularity: str = "fine-grained") -> dict[str, Any]:  # fmt: skip
            return {"trainer": without_epoch(trainer), "optimizer": traced_optimizer, "criterion": criterion,
                    "num_iterations": iterations, "epochs_per_iteration": training_epochs,
                    "base_algo": "level" if granularity == "fine-grained" else "l1"}  # fmt: skip

        def evaluated(evaluator: Evaluator, iterations: int, training_epochs: int, granularity: str = "fine-grained"
                      ) -> dict[str, Any]:  # fmt: skip
            optimizer = evaluator.optimizer
            own = trained(epochs_of(evaluator), optimizer, None, iterations, training_epochs, granularity)
            return {**own, "criterion": None}

        form = evaluated if evaluator_form(args, named) else trained
        given = called_with("ADMMPruner", form, args, with_traced(named))
        entries, row = take_key(config_list, "rho", 1e-4)
        super().__init__(model, entries, row=row, **given)


class MovementPruner(V2Pruner, pruning.MovementPruner):
    """Zeroes the single weights that training moves towards zero.

    Args:
        model: what to prune.
        config_list: entries in the words of NNI or torchpare.
        args, named: ``(evaluator, warm_up_step, cool_down_beginning_step, training_epochs=None, training_steps=None,
            regular_scale=None, movement_mode="hard", sparse_granularity="finegrained")``, or ``(trainer,
            traced_optimizer, criterion, training_epochs, warm_up_step, cool_down_beginning_step)``.
    """

    limits: tuple[int | None, int | None] = (None, None)

    def __init__(self, model: nn.Module, config_list: Any, *args: Any, **named: Any) -> None:
        def trained(trainer: Any, traced_optimizer: Any, criterion: Any, training_epochs: int, warm_up_step: int,
                    cool_down_beginning_step: int) -> dict[str, Any]:  # fmt: skip
            return {"optimizer": traced_optimizer, "trainer": without_epoch(trainer), "criterion": criterion,
                    "training_epochs": training_epochs, "warm_up_step": warm_up_step,
                    "cool_down_beginning_step": cool_down_beginning_step}  # fmt: skip

        def evaluated(evaluator: Evaluator, warm_up_step: int, cool_down_beginning_step: int,
                      training_epochs: int | None = None, training_steps: int | None = None,
                      regular_scale: float | None = None, movement_mode: str = "hard",
                      sparse_granularity: str = "finegrained") -> dict[str, Any]:  # fmt: skip
            check_movement(regular_scale, movement_mode, sparse_granularity)
            self.evaluator, self.limits = evaluator, (training_steps, training_epochs)
            return {"warm_up_step": warm_up_step, "cool_down_beginning_step": cool_down_beginning_step}

        form = evaluated if evaluator_form(args, named) else trained
        super().__init__(model, config_list, **called_with("MovementPruner", form, args, with_traced(named)))

    def begin(self) -> None:
        """Train the scores, by the evaluator if there is one."""
        super().begin()
        if self.evaluator is not None:
            steps, epochs = self.limits
            try:
                self.evaluator.run(self.bound_model, before=self.step, max_steps=steps, max_epochs=epochs)
            finally:
                self.finish()
