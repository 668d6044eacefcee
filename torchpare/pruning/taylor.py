"""Pruners that ask the loss: what it would change by without a filter, to first order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach.activation_watch import ActivationGradientWatch
from torchpare.attach.watch import GradientWatch
from torchpare.config import output_layout
from torchpare.numerics import Filter, first_order, first_order_of_activations
from torchpare.pruning.data_driven import DataDrivenPruner, two_places_earlier
from torchpare.pruning.granularity import Allocation

__all__ = ["TaylorFOActivationFilterPruner", "TaylorFOWeightFilterPruner"]


class _StatisticsPruner(DataDrivenPruner):
    """A data-driven pruner that takes the arguments of scripts that train themselves as well.

    Args:
        sparsifying_training_batches: how many minibatches to look at; ``statistics_batch_num`` is the same. Where
            ``trainer`` is a number, the arguments are those of scripts that train themselves: ``(model, config_list,
            optimizer, statistics_batch_num, dependency_aware, dummy_input)``. All others are
            :class:`DataDrivenPruner`'s.
    """

    def __init__(  # noqa: PLR0913 - the arguments of the older toolkit
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | Callable[..., Any] | None = None,
        trainer: Callable[..., Any] | Optimizer | int | None = None,
        criterion: Any = None,
        sparsifying_training_batches: Any = 1,
        dependency_aware: bool | str = False,
        dummy_input: Any = None,
        *,
        statistics_batch_num: int | None = None,
        training_batches: int | None = None,
        **allocation: Unpack[Allocation],
    ) -> None:
        if isinstance(trainer, int):
            earlier = two_places_earlier(trainer, criterion, sparsifying_training_batches)
            trainer, criterion = None, None
            sparsifying_training_batches = earlier[0]
            dependency_aware, dummy_input = (
                dependency_aware or earlier[1],
                earlier[2] if dummy_input is None else dummy_input,
            )
        super().__init__(
            model, config_list, optimizer, trainer, criterion,
            statistics_batch_num or training_batches or sparsifying_training_batches, dependency_aware, dummy_input,
            **allocation,
        )  # fmt: skip


class TaylorFOWeightFilterPruner(_StatisticsPruner):
    """Removes the filters that the loss would miss least, to first order in their weights.

    Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019, section 3.1.
    Weights and gradients are taken just before each step, when they belong together.

    Args:
        sparsifying_training_batches: how many minibatches to look at; ``statistics_batch_num`` is the same. All others
            are :class:`DataDrivenPruner`'s.
    """

    mid_epoch = False

    def watched(self, layers: Mapping[str, nn.Module]) -> GradientWatch:
        """Watch weights and gradients at each step."""
        units = {name: Filter(*output_layout(layer)) for name, layer in layers.items()}

        def measure(name: str, weight: Tensor, grad: Tensor) -> Tensor:
            return first_order(units[name].fold(weight), units[name].fold(grad))

        return GradientWatch(layers, measure, self.optimizer)

    def judged(self, seen: Any) -> Tensor:
        """The sum of squared products of weights and gradients."""
        return seen


class TaylorFOActivationFilterPruner(_StatisticsPruner):
    """Removes the filters that the loss would miss least, to first order in what they pass on.

    Of each example and channel the mean of activation times gradient, in absolute value; then the mean over examples,
    and of a layer's scores their share of the layer's Euclidean norm, so that layers can be compared. A filter in front
    of a ReLU is worth the same before and after it: where the ReLU is zero, so is the gradient before it.

    Molchanov, Tyree, Karras, Aila, Kautz, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    ICLR 2017, equation 8 and, for the normalization, section 2.3.

    Args:
        sparsifying_training_batches: how many minibatches to look at; ``statistics_batch_num`` is the same. All others
            are :class:`DataDrivenPruner`'s.
    """

    def watched(self, layers: Mapping[str, nn.Module]) -> ActivationGradientWatch:
        """Watch what layers pass on, and the gradients that come back."""
        return ActivationGradientWatch(
            layers, lambda output, grad, axis: (first_order_of_activations(output, grad, axis), len(output))
        )

    def judged(self, seen: Any) -> Tensor:
        """The mean over examples, as a share of the layer's norm."""
        total, examples = seen
        mean = total.double().cpu() / examples
        return mean / mean.norm().clamp_min(1e-300)
