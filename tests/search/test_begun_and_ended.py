"""Searches that cannot begin, searches that have ended, and two at once in one folder."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.search.nets import CONVOLUTIONS, Chain, example, likelihood, trained
from tests.search.strategies import STRATEGIES
from torchpare.errors import ConfigError, FileError, SearchError
from torchpare.pruning import (
    NetAdaptPruner,
    SensitivityPruner,
    SimulatedAnnealingPruner,
)
from torchpare.search import Objective
from torchpare.search.fingerprint import of_model


@functools.wraps(likelihood)  # the same search, to its journal
def _never_needed(model: torch.nn.Module) -> float:
    raise AssertionError("evaluated again")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_that_has_ended_is_had_again_without_a_trial(name: str, tmp_path: Path) -> None:
    found = []
    for evaluator in (likelihood, _never_needed):
        model = trained(Chain)
        pruner = STRATEGIES[name](model, evaluator, tmp_path)
        pruner.compress()
        found.append((pruner.get_config_list(), of_model(model)))
    assert found[0] == found[1]


def test_a_second_search_in_the_same_folder_at_the_same_time_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    told = []

    def starts_another(model):
        if not told:
            told.append("")
            with pytest.raises(FileError, match="another process is at work on this search"):
                STRATEGIES["budget"](trained(Chain), starts_another, tmp_path).compress()
            STRATEGIES["budget"](trained(Chain), starts_another, tmp_path, seed=1).compress()  # another search may
        return likelihood(model)

    STRATEGIES["budget"](trained(Chain), starts_another, tmp_path).compress()
    assert told


@pytest.mark.parametrize("name", ["net_adapt", "annealing"])
def test_a_journal_with_a_state_of_another_model_is_told(name: str, tmp_path: Path) -> None:
    STRATEGIES[name](trained(Chain), likelihood, tmp_path).compress()
    (state,) = tmp_path.rglob("*.safetensors")
    save_file({"wide.weight": torch.zeros(3)}, state)
    model = trained(Chain)
    before = of_model(model)
    with pytest.raises(FileError, match="is of another model"):
        STRATEGIES[name](model, likelihood, tmp_path).compress()
    assert of_model(model) == before


def test_net_adapt_ends_where_no_layer_alone_makes_the_model_cheaper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchpare.search import costs

    class Widest:
        def __init__(self, model: torch.nn.Module, batch: torch.Tensor) -> None:
            self.size = max(model.wide.out_channels / 16, model.stem.out_channels / 6)

        def __call__(self) -> None:
            """A run."""

    monkeypatch.setattr(costs, "latency", lambda run, runs: run.size)
    monkeypatch.setattr(costs, "relative_latency", lambda run, dense, runs: run.size / dense.size)
    pruner = NetAdaptPruner(trained(Chain), CONVOLUTIONS, None, likelihood, experiment_data_dir=tmp_path,
                            objective=Objective("latency", runtime=Widest), dummy_input=example())  # fmt: skip
    with pytest.raises(SearchError, match="no layer alone makes the cost less than 1"):
        pruner.compress()


def test_an_objective_that_cannot_be_met_is_told(tmp_path: Path) -> None:
    model = trained(Chain)
    pruner = NetAdaptPruner(model, [{"sparsity": 0.9, "op_names": ["stem"]}], None, likelihood, objective="params",
                            experiment_data_dir=tmp_path, dummy_input=example())  # fmt: skip
    with pytest.raises(ConfigError, match="none can lose anything"):
        pruner.compress()  # the residual ties it to a layer that is not selected
    pruner = NetAdaptPruner(model, [{"sparsity": 0.9, "op_names": ["wide"]}], None, likelihood, objective="params",
                            experiment_data_dir=tmp_path, dummy_input=example())  # fmt: skip
    with pytest.raises(SearchError, match="cannot be met: with every selected layer pruned"):
        pruner.compress()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimize_mode": "max"}, "'maximize' or 'minimize'"),
        ({"objective": "flops"}, "'sparsity', 'params', 'macs', 'latency'"),
        ({"base_algo": "taylorfo"}, "too slow"),
        ({"base_algo": "level", "objective": "macs"}, "the objective is 'sparsity'"),
        ({"experiment_data_dir": "/no/such/folder"}, "make it first"),
        ({"experiment_data_dir": None}, "make it first"),
        ({"max_sparsity": 1.0}, "between 0 and 1"),
        ({"max_sparsity": "0.9"}, "between 0 and 1"),
        ({"round_to": 0}, "above 0"),
        ({"start_temperature": "100"}, "starts above where it stops"),
        ({"start_temperature": math.inf}, "starts above where it stops"),
        ({"seed": -1}, "0 or more"),
        ({"evaluator": None}, "evaluator is a NoneType"),
        ({"stop_temperature": 200}, "starts above where it stops"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: dict, message: str, tmp_path: Path) -> None:
    known = {"evaluator": likelihood, "experiment_data_dir": tmp_path, **arguments}
    with pytest.raises(ConfigError, match=message):
        SimulatedAnnealingPruner(trained(), CONVOLUTIONS, **known)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "above 0"),
        ({"limit": math.nan}, "above 0"),
        ({"metric": "sparsity", "limit": 2.0}, "below 1"),
        ({"metric": "latency", "runtime": "tensorflow"}, "'pytorch', 'onnxruntime'"),
        ({"metric": "latency", "runs": 1}, "at least 2"),
    ],
)
def test_objectives_that_mean_nothing_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Objective(**arguments)


def test_a_search_that_ended_is_not_searched_again_unless_told(tmp_path: Path, caplog) -> None:
    calls = []

    def counted(model):
        calls.append(1)
        return likelihood(model)

    def search(**more):
        calls.clear()
        STRATEGIES["budget"](trained(Chain), counted, tmp_path, **more).compress()
        return len(calls)

    first = search()
    assert search() == 0
    assert "going on with the search" in caplog.text
    assert search(resume=False) == first
    assert search(seed=1) > 0


@pytest.mark.parametrize("proportions", [None, {}, {"wide": math.nan, "stem": 1}, {"wide": -1, "stem": 1}])
def test_proportions_that_are_none_are_told(proportions, tmp_path: Path) -> None:
    pruner = SensitivityPruner(trained(Chain), CONVOLUTIONS, likelihood, dummy_input=example(), checkpoint_dir=tmp_path,
                               sparsity_proportion_calc=lambda ratios: proportions)  # fmt: skip
    with pytest.raises(SearchError, match="with a number, 0 or more, for each of wide, stem"):
        pruner.compress()
