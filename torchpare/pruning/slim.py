"""Network slimming: train the scales of batch norms to be sparse, then take the channels with the smallest away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach.steps import Steps
from torchpare.errors import ConfigError
from torchpare.numerics import magnitude
from torchpare.pruning.base import Pruner
from torchpare.pruning.training import checked_batches, in_order, training_of

__all__ = ["SlimPruner"]


class SlimPruner(Pruner):
    """Removes the channels with the smallest batch norm scales of the whole model, after training these to be sparse.

    The share of channels to prune is taken over all selected norms together, so that thin layers may lose little and
    wide ones much; each keeps one channel at least. With ``mode="normal"`` each norm loses its own share. Masked are
    scale and shift; what makes the channel goes when the model is shrunk.

    Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
    equation 1 with ``g(s) = |s|``.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: entries for batch norms (``"default"`` stands for them), all of one sparsity but with
            ``mode="normal"``.
        optimizer: steps the scales; it may change places with ``trainer``.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch, and ``compress()``
            calls it ``sparsifying_training_epochs`` times. Without it the scales are judged as they are; scripts that
            train themselves call ``sparsify()`` between ``backward()`` and ``optimizer.step()``.
        criterion: handed to the trainer.
        sparsifying_training_epochs: how long to train for sparse scales; ``training_epochs`` is the same.
        scale: the weight of the scales' L1 norm in the loss.
        dependency_aware: must stay False: the scales are ranked over the whole model. Scripts of later versions give
            ``mode`` in this place.
        dummy_input: an example input, for whole groups from the first mask on.
        mode: ``"global"``, or ``"normal"``: the scales of each norm are ranked by themselves.

    Raises:
        ConfigError: as every pruner; of these, for entries of different sparsities where all norms share what goes.
    """

    supported = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    structured = True
    shared = True

    @property
    def takes_structures(self) -> bool:
        """No: it ranks channels of norms, which make none."""
        return False

    def __init__(  # noqa: PLR0913 - the arguments of the older toolkit
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | Callable[..., Any] | None = None,
        trainer: Callable[..., Any] | Optimizer | None = None,
        criterion: Any = None,
        sparsifying_training_epochs: int = 10,
        scale: float = 1e-4,
        dependency_aware: bool | str = False,
        dummy_input: Any = None,
        *,
        training_epochs: int | None = None,
        mode: str = "global",
    ) -> None:
        steps, trains = in_order(optimizer, trainer)
        if isinstance(dependency_aware, str):
            dependency_aware, mode = False, dependency_aware
        if dependency_aware or mode == "dependency_aware":
            raise ConfigError("SlimPruner ranks the scales of the whole model together, and cannot choose the channels "
                              "of one layer with those of another: leave dependency_aware out. Channels that only some "
                              "layers of a residual lose are put back when the model is shrunk")  # fmt: skip
        if mode not in ("global", "normal"):
            raise ConfigError(f"SlimPruner: mode is {mode!r}; it is 'global', which ranks the scales of all norms "
                              "together, or 'normal', which ranks those of each by themselves")  # fmt: skip
        self.shared = mode == "global"  # type: ignore[misc] - of this pruner, not of its class
        super().__init__(model, config_list, steps, False, dummy_input, mode=mode)
        self.training = training_of("SlimPruner", trains, steps, criterion)
        epochs = sparsifying_training_epochs if training_epochs is None else training_epochs
        self.epochs = checked_batches("SlimPruner", "sparsifying_training_epochs", epochs)
        self.scale = scale

    def score(self, weight: Tensor) -> Tensor:
        """The size of each scale."""
        return magnitude(weight)

    def begin(self) -> None:
        """Train for sparse scales where there is a trainer; then mask."""
        self.train_scales()
        self.mask()

    def train_scales(self) -> None:
        """Let the trainer, if there is one, train for as many epochs as were asked for, with the penalty."""
        if self.training is not None:
            steps = Steps(self.training.optimizer, before=self.sparsify)
            try:
                for epoch in self.training.epochs(self.bound_model, self.epochs, "SlimPruner: training sparse scales"):
                    self.training.run(self.bound_model, epoch)
            finally:
                steps.remove()

    @torch.no_grad()
    def sparsify(self) -> None:
        """Add the gradient of ``scale * |gamma|`` to that of each selected norm's scales, where there is one."""
        for target in self.targets.values():
            gamma = target.module._parameters["weight"]  # noqa: SLF001 - the parameter that has the gradient
            assert gamma is not None
            if gamma.grad is not None:
                gamma.grad.add_(gamma.sign(), alpha=self.scale)
