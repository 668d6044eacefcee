"""The methods that benchmarks/pruners.py compares: each prunes a dense net and trains it for the same number of epochs.

L1 and level pruning come twice: also with as few epochs as slower methods have left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import nn

from benchmarks.digits_nets import NETS, Budget, loss_of
from benchmarks.pruners_rivals import (
    apoz_by_hand,
    movement_by_hand,
    slim_by_hand,
    torch_pruning,
    torch_structured,
    torch_unstructured,
)
from torchpare import ModelSpeedup
from torchpare.pruning import (
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
    ADMMPruner,
    AGPPruner,
    FPGMPruner,
    HessianFilterPruner,
    L1FilterPruner,
    L2FilterPruner,
    LevelPruner,
    LinearPruner,
    LotteryTicketPruner,
    MovementPruner,
    RandomFilterPruner,
    SlimPruner,
    TaylorFOActivationFilterPruner,
    TaylorFOWeightFilterPruner,
)

__all__ = ["BY_HAND", "FINE", "METHODS", "WHOLE", "suits"]

Method = Callable[[nn.Module, float, Budget, Any], nn.Module]


def _filters(sparsity: float) -> list[dict[str, Any]]:
    return [{"sparsity": sparsity, "op_types": ["Conv2d"]}]


def _weights(sparsity: float) -> list[dict[str, Any]]:
    return [{"sparsity": sparsity, "op_types": ["Conv2d", "Linear"]}]


def at_once(kind: Any) -> Method:
    """Filters go by what the weights say."""

    def run(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
        kind(model, _filters(sparsity), dependency_aware=True, dummy_input=example).compress()
        budget.spend(model)
        return shrunk(model, example)

    return run


def hurried(method: Method, share: int) -> Method:
    """The same with one ``share``-th of the epochs: what methods have left that train for the others first."""

    def run(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
        budget.epochs //= share
        return method(model, sparsity, budget, example)

    return run


def by_data(kind: Any) -> Method:
    """Filters go by what an epoch of training says."""

    def run(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
        kind(
            model, _filters(sparsity), budget.optimizer(model), budget.trainer, loss_of,
            sparsifying_training_batches=10, dependency_aware=True, dummy_input=example,
        ).compress()  # fmt: skip
        budget.spend(model)
        return shrunk(model, example)

    return run


def gradually(kind: Any, **options: Any) -> Method:
    """More and more goes in the first half of the epochs."""

    def run(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
        fine = options.get("pruning_algorithm", "level") == "level"
        kind(
            model, _weights(sparsity) if fine else _filters(sparsity), budget.optimizer(model), budget.trainer, loss_of,
            num_iterations=budget.epochs // 2, dependency_aware=not fine, dummy_input=example, **options,
        ).compress()  # fmt: skip
        budget.spend(model)
        return model if fine else shrunk(model, example)

    return run


def slim(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Norms are trained to be sparse for half of the epochs, then the smallest of the whole net go."""
    entry = [{"sparsity": sparsity, "op_types": ["BatchNorm2d"]}]
    SlimPruner(
        model, entry, budget.optimizer(model), budget.trainer, loss_of,
        sparsifying_training_epochs=budget.epochs // 2, scale=1e-3, dummy_input=example,
    ).compress()  # fmt: skip
    budget.spend(model)
    return shrunk(model, example)


def admm(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Weights are trained towards being sparse for half of the epochs."""
    ADMMPruner(
        model, _filters(sparsity), budget.trainer, loss_of, num_iterations=budget.epochs // 4, epochs_per_iteration=2,
        row=1e-2, optimizer=budget.optimizer(model), dependency_aware=True, dummy_input=example,
    ).compress()  # fmt: skip
    budget.spend(model)
    return shrunk(model, example)


def lottery(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Three rounds of weights, each from the dense net's weights and learning rate again."""
    del example
    rounds = 3
    entry = [{**_weights(sparsity)[0], "prune_iterations": rounds}]
    optimizer = budget.optimizer(model)
    pruner = LotteryTicketPruner(model, entry, optimizer)
    pruner.compress()
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        part = Budget(budget.data, budget.seed, budget.epochs // (rounds + 1))
        for _ in range(part.epochs):
            part.trainer(model, optimizer)
        budget.used += part.used
    return model


def movement(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Weights go that training moves towards zero, from the second epoch to the middle."""
    del example
    batches = len(budget.data.train_digits) // 64
    MovementPruner(
        model, _weights(sparsity), budget.optimizer(model), budget.trainer, loss_of, training_epochs=budget.epochs,
        warm_up_step=batches, cool_down_beginning_step=batches * budget.epochs // 2,
    ).compress()  # fmt: skip
    return model


def level(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """The smallest weights of each layer."""
    del example
    LevelPruner(model, _weights(sparsity)).compress()
    budget.spend(model)
    return model


METHODS: Final[dict[str, Method]] = {
    "L1FilterPruner": at_once(L1FilterPruner),
    "L1FilterPruner, half of the epochs": hurried(at_once(L1FilterPruner), 2),
    "L2FilterPruner": at_once(L2FilterPruner),
    "FPGMPruner": at_once(FPGMPruner),
    "RandomFilterPruner": at_once(RandomFilterPruner),
    "SlimPruner": slim,
    "slimming by hand": slim_by_hand,
    "TaylorFOWeightFilterPruner": by_data(TaylorFOWeightFilterPruner),
    "TaylorFOActivationFilterPruner": by_data(TaylorFOActivationFilterPruner),
    "HessianFilterPruner": by_data(HessianFilterPruner),
    "ActivationAPoZRankFilterPruner": by_data(ActivationAPoZRankFilterPruner),
    "APoZ by hand": apoz_by_hand,
    "ActivationMeanRankFilterPruner": by_data(ActivationMeanRankFilterPruner),
    "AGPPruner, l1": gradually(AGPPruner, pruning_algorithm="l1"),
    "LinearPruner, l1": gradually(LinearPruner, pruning_algorithm="l1"),
    "AGPPruner, taylorfo": gradually(AGPPruner, pruning_algorithm="taylorfo"),
    "ADMMPruner": admm,
    "Torch-Pruning, L1": torch_pruning,
    "torch prune, L1 filters": torch_structured,
    "LevelPruner": level,
    "LevelPruner, a quarter of the epochs": hurried(level, 4),
    "AGPPruner, level": gradually(AGPPruner),
    "LotteryTicketPruner": lottery,
    "MovementPruner": movement,
    "movement by hand": movement_by_hand,
    "torch prune, weights": torch_unstructured,
}
"""By the name that the table says."""

FINE: Final = frozenset(
    {
        "LevelPruner", "LevelPruner, a quarter of the epochs", "AGPPruner, level", "LotteryTicketPruner",
        "MovementPruner", "movement by hand", "torch prune, weights",
    }
)  # fmt: skip
"""Those whose single weights go."""

BY_HAND: Final = ("slimming by hand", "APoZ by hand", "movement by hand")
"""Those without a line of ours."""

WHOLE: Final = FINE | {"torch prune, L1 filters"}
"""Those of which zeros are counted: they leave every filter where it is."""


def suits(method: str, net: str) -> bool:
    """Whether a method can prune a net: slimming needs norms, and APoZ by hand was written for nets without."""
    norms = any(isinstance(layer, nn.BatchNorm2d) for layer in NETS[net][0]().modules())
    if method in ("SlimPruner", "slimming by hand"):
        return norms
    return not (norms and method == "APoZ by hand")


def shrunk(model: nn.Module, example: Any) -> nn.Module:
    """Small, and proved."""
    ModelSpeedup(model, example).speedup_model()
    return model
