"""A pruner that asks how sharply the loss bends: filters whose weights lie flat go first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach.curvature import CurvatureWatch
from torchpare.config import output_layout
from torchpare.errors import ConfigError
from torchpare.numerics import Filter, second_order
from torchpare.pruning.data_driven import DataDrivenPruner
from torchpare.pruning.granularity import Allocation
from torchpare.pruning.training import checked_batches

__all__ = ["HessianFilterPruner"]


class HessianFilterPruner(DataDrivenPruner):
    """Removes the filters without which the loss grows least, to second order.

    At a minimum the first order says nothing: what counts is ``h * w ** 2 / 2``, where ``h`` is the diagonal of the
    loss's Hessian. It is estimated without making the Hessian: for random signs ``v``, ``v * (H v)`` is the diagonal on
    average, and ``H v`` is one more pass back.

    LeCun, Denker, Solla, "Optimal Brain Damage", NeurIPS 1989, equation 2; the estimate: Bekas, Kokiopoulou, Saad, "An
    Estimator for the Diagonal of a Matrix", Applied Numerical Mathematics 2007.

    The pruner has to see the loss. With a ``trainer``, it sees what ``criterion`` returns, so the trainer must call the
    criterion that it is handed. In a loop of your own, say ``pruner.observe(loss)`` before ``loss.backward()``.

    Args:
        model: what to prune. The constructor only reads it. Its operators must be twice differentiable.
        config_list: a list of dicts; see :class:`torchpare.config.Entry`.
        optimizer: handed to the trainer.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch.
        criterion: handed to the trainer, watched; cross entropy, if not given.
        sparsifying_training_batches: how many losses to look at.
        dependency_aware: choose channels together where layers can only lose them together.
        dummy_input: an example input, for whole groups from the first mask on.
        probes: how many random sign vectors for each loss.
        seed: of their draw.
        allocation: ``mode``, ``group_score``: as every pruner.

    Raises:
        ConfigError: as every pruner, or a criterion that cannot be called.
    """

    mid_epoch = False

    def __init__(  # noqa: PLR0913 - those of its siblings, and how it estimates
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | Callable[..., Any] | None = None,
        trainer: Callable[..., Any] | Optimizer | None = None,
        criterion: Callable[..., Tensor] | None = None,
        sparsifying_training_batches: int = 1,
        dependency_aware: bool | str = False,
        dummy_input: Any = None,
        *,
        probes: int = 1,
        seed: int = 0,
        **allocation: Unpack[Allocation],
    ) -> None:
        loss = nn.CrossEntropyLoss() if criterion is None else criterion
        super().__init__(
            model,
            config_list,
            optimizer,
            trainer,
            loss,
            sparsifying_training_batches,
            dependency_aware,
            dummy_input,
            **allocation,
        )
        self.probes = checked_batches("HessianFilterPruner", "probes", probes)
        self.seed = seed

    def criterion_of(self, criterion: Any) -> Any:
        """The criterion, whose losses are observed as it returns them."""
        if not callable(criterion):
            raise ConfigError(f"HessianFilterPruner: criterion is a {type(criterion).__name__}; it is a function that "
                              "returns the loss, and the trainer must call it")  # fmt: skip

        def watched(*args: Any, **kwargs: Any) -> Any:
            loss = criterion(*args, **kwargs)
            self.observe(loss)
            return loss

        return watched

    def observe(self, loss: Any) -> None:
        """Look at a loss, before it is taken back; nothing where enough was seen or the loss has no gradient."""
        watch = self._watch
        if isinstance(watch, CurvatureWatch) and watch.batches < self.batches and getattr(loss, "requires_grad", False):
            watch.see(loss)

    def watched(self, layers: Mapping[str, nn.Module]) -> CurvatureWatch:
        """Watch the loss."""
        units = {name: Filter(*output_layout(layer)) for name, layer in layers.items()}

        def measure(name: str, weight: Tensor, curvature: Tensor) -> Tensor:
            return second_order(units[name].fold(weight), units[name].fold(curvature))

        return CurvatureWatch(layers, measure, self.probes, torch.Generator().manual_seed(self.seed))

    def judged(self, seen: Any) -> Tensor:
        """The sum over the losses seen; it may be below 0, where the loss bends the other way."""
        return seen
