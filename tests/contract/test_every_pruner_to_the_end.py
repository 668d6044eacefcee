"""Every algorithm from beginning to end: prune, train, shrink, and the proof that the small model is the masked one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.pruning.training import train
from tests.search.nets import Chain, example, likelihood, trained
from tests.search.strategies import STRATEGIES
from torchpare import ModelSpeedup, pruning
from torchpare.attach import masks_of

FILTERS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
BLOCKS = [{"sparsity": 0.5, "granularity": [2], "op_types": ["Conv2d"]}]
NORMS = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]
TOGETHER = {"dependency_aware": True, "dummy_input": example()}
EXAMPLE = {"dummy_input": example()}

Prunes = Callable[[nn.Module, torch.optim.Optimizer], Any]


def made(name: str, config_list: Any, *args: Any, **options: Any) -> Prunes:
    return lambda model, optimizer: getattr(pruning, name)(model, config_list, *args, **options)


def training(name: str, config_list: Any, *args: Any, **options: Any) -> Prunes:
    """With an optimizer, a trainer and a criterion in front of the other arguments."""
    return lambda model, optimizer: getattr(pruning, name)(
        model, config_list, optimizer, train, cross_entropy, *args, **options
    )


def tickets(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    rounds = [{**BLOCKS[0], "prune_iterations": 2}]
    pruner = pruning.LotteryTicketPruner(model, rounds, optimizer)
    pruner.compress()
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        train(model, optimizer)
    return pruner


SINGLE_WEIGHTS = ("LevelPruner", "MovementPruner", "LotteryTicketPruner")
"""They go in whole rows here, so that something leaves; biases stay, and what these say at a padded border goes."""

ALGORITHMS: dict[str, Prunes] = {
    "LevelPruner": made("LevelPruner", BLOCKS),
    "L1FilterPruner": made("L1FilterPruner", FILTERS, **TOGETHER),
    "L2FilterPruner": made("L2FilterPruner", FILTERS, **TOGETHER),
    "FPGMPruner": made("FPGMPruner", FILTERS, **TOGETHER),
    "RandomFilterPruner": made("RandomFilterPruner", FILTERS, **TOGETHER),
    "SlimPruner": training("SlimPruner", NORMS, 2, **EXAMPLE),
    "TaylorFOWeightFilterPruner": training("TaylorFOWeightFilterPruner", FILTERS, 2, **TOGETHER),
    "TaylorFOActivationFilterPruner": training("TaylorFOActivationFilterPruner", FILTERS, 2, **TOGETHER),
    "HessianFilterPruner": training("HessianFilterPruner", FILTERS, 2, **TOGETHER),
    "ActivationAPoZRankFilterPruner": training("ActivationAPoZRankFilterPruner", FILTERS, "relu", 2, **TOGETHER),
    "ActivationMeanRankFilterPruner": training("ActivationMeanRankFilterPruner", FILTERS, "relu", 2, **TOGETHER),
    "AGPPruner": training("AGPPruner", FILTERS, 3, pruning_algorithm="l1", **TOGETHER),
    "LinearPruner": training("LinearPruner", FILTERS, 3, pruning_algorithm="l1", **TOGETHER),
    "ADMMPruner": made("ADMMPruner", FILTERS, train, cross_entropy, 2, 1, 1e-2, **TOGETHER),
    "MovementPruner": training("MovementPruner", BLOCKS, 2, 0, 4),
    "LotteryTicketPruner": tickets,
}
SEARCHES = {
    "NetAdaptPruner": "net_adapt",
    "SimulatedAnnealingPruner": "annealing",
    "SensitivityPruner": "sensitivity",
    "AutoCompressPruner": "auto_compress",
    "AMCPruner": "amc",
    "BudgetSearchPruner": "budget",
}
BY_HEADS = "TransformerHeadPruner"  # tests/pruning/test_heads.py
slow = [pytest.param(name, marks=pytest.mark.slow) if name == "AMCPruner" else name for name in SEARCHES]


def test_these_are_all_there_are():
    public = {kind.__name__ for kind in (getattr(pruning, name) for name in pruning.__all__)
              if not inspect.isabstract(kind)}  # fmt: skip
    bases = {"GradualPruner"}
    assert public - bases == {*ALGORITHMS, *SEARCHES, BY_HEADS}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_prune_train_shrink_prove(name: str) -> None:
    model = trained(Chain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    ALGORITHMS[name](model, optimizer).compress()
    assert_it_trains_and_shrinks(model, optimizer, exact=name not in SINGLE_WEIGHTS)


@pytest.mark.parametrize("name", slow)
def test_search_train_shrink_prove(name: str, tmp_path: Path) -> None:
    if name == "AMCPruner":
        pytest.importorskip("stable_baselines3")
    model = trained(Chain)
    dense = sum(parameter.numel() for parameter in model.parameters())
    assert STRATEGIES[SEARCHES[name]](model, likelihood, tmp_path).compress() is model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    if name == "AutoCompressPruner":  # which has shrunk it already; what is small trains on
        assert sum(parameter.numel() for parameter in model.parameters()) < dense
        before = likelihood(model)
        train(model, optimizer)
        assert likelihood(model) != before
        return
    assert_it_trains_and_shrinks(model, optimizer, exact=True)


def assert_it_trains_and_shrinks(model: nn.Module, optimizer: torch.optim.Optimizer, *, exact: bool) -> None:
    masks = masks_of(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, optimizer)
    assert any(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    after = masks_of(model)
    assert all(torch.equal(mask, after[layer][name]) for layer, own in masks.items() for name, mask in own.items())
    model.eval()
    x = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    masked = model(x)
    report = ModelSpeedup(model, example()).speedup_model()
    assert report.parameters_after < report.parameters_before
    assert report.output_change > 0
    assert report.largest_difference <= report.tolerance
    if exact or report.exact:
        assert report.exact
        torch.testing.assert_close(model(x), masked, rtol=1e-4, atol=1e-5)
    else:
        assert report.changes
