"""Every search, small enough for a test; importable by the scripts that tests kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from tests.search.nets import CONVOLUTIONS, example, trainer, tune
from torchpare.pruning import (
    AMCPruner,
    AutoCompressPruner,
    BudgetSearchPruner,
    NetAdaptPruner,
    SensitivityPruner,
    SimulatedAnnealingPruner,
)
from torchpare.search import SearchPruner

__all__ = ["STRATEGIES"]


def _net_adapt(model: nn.Module, evaluator: Any, folder: Path, **more: Any) -> SearchPruner:
    return NetAdaptPruner(
        model, CONVOLUTIONS, tune, evaluator, sparsity_per_iteration=0.15, experiment_data_dir=folder,
        dummy_input=example(), **more,
    )  # fmt: skip


def _annealing(model: nn.Module, evaluator: Any, folder: Path, **more: Any) -> SearchPruner:
    return SimulatedAnnealingPruner(
        model, CONVOLUTIONS, evaluator, stop_temperature=60, experiment_data_dir=folder, fine_tuner=tune,
        dummy_input=example(), **more,
    )  # fmt: skip


def _sensitivity(model: nn.Module, evaluator: Any, folder: Path, **more: Any) -> SearchPruner:
    return SensitivityPruner(
        model, CONVOLUTIONS, evaluator, tune, sparsity_per_iter=0.3, experiment_data_dir=folder, dummy_input=example(),
        **more,
    )  # fmt: skip


def _auto_compress(model: nn.Module, evaluator: Any, folder: Path, **more: Any) -> SearchPruner:
    return AutoCompressPruner(
        model, CONVOLUTIONS, trainer, evaluator, example(), num_iterations=2, stop_temperature=80,
        admm_num_iterations=2, admm_epochs_per_iteration=1, experiment_data_dir=folder, **more,
    )  # fmt: skip


def _amc(model: nn.Module, evaluator: Any, folder: Path, **more: Any) -> SearchPruner:
    return AMCPruner(
        model, [{"op_types": ["Conv2d"]}], evaluator, flops_ratio=0.5, train_episode=8, warmup=3, channel_round=1,
        bsize=4, hidden1=16, hidden2=16, output_dir=folder, dummy_input=example(), reward=_as_it_is, **more,
    )  # fmt: skip


def _budget(model: nn.Module, evaluator: Any, folder: Path, **more: Any) -> SearchPruner:
    more.setdefault("objective", "params")
    return BudgetSearchPruner(
        model, CONVOLUTIONS, evaluator, 8, experiment_data_dir=folder, dummy_input=example(), **more
    )


def _as_it_is(score: float, cost: float) -> float:
    del cost
    return score


STRATEGIES: dict[str, Callable[..., SearchPruner]] = {
    "net_adapt": _net_adapt,
    "annealing": _annealing,
    "sensitivity": _sensitivity,
    "auto_compress": _auto_compress,
    "amc": _amc,
    "budget": _budget,
}
"""``(model, evaluator, folder, **more) -> pruner``, by name."""
