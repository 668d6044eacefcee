"""What an evaluator may do, say and fail to say, and what the search makes of it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from tests.search.nets import CONVOLUTIONS, Chain, accuracy, example, likelihood, trained, tune
from tests.search.strategies import STRATEGIES
from torchpare.attach import detach
from torchpare.errors import ConfigError, SearchError
from torchpare.pruning import (
    BudgetSearchPruner,
    NetAdaptPruner,
    SensitivityPruner,
    SimulatedAnnealingPruner,
)
from torchpare.search.fingerprint import of_model


def _loss(model: torch.nn.Module) -> float:
    return -likelihood(model)


def test_the_evaluator_of_sensitivity_may_take_arguments_of_which_the_model_is_one(tmp_path: Path) -> None:
    seen = []

    def evaluator(data, model, scale):
        seen.append((data, scale))
        return scale * likelihood(model)

    tuned = []
    model = trained(Chain)
    pruner = SensitivityPruner(model, CONVOLUTIONS, evaluator, tuned.append, sparsity_per_iter=0.5,
                               acc_drop_threshold=1.0, checkpoint_dir=tmp_path, dummy_input=example())  # fmt: skip
    pruner.compress(eval_args=["data", model], eval_kwargs={"scale": 2}, finetune_args=[model])
    assert set(seen) == {("data", 2)}
    assert tuned == [model] * len(tuned)
    assert tuned


def test_without_an_example_the_evaluators_first_batch_serves(tmp_path: Path) -> None:
    widths = []

    def evaluator(model):
        widths.append(model.wide.out_channels)
        return accuracy(model)

    model = trained(Chain)
    NetAdaptPruner(model, CONVOLUTIONS, None, evaluator, sparsity_per_iteration=0.25,
                   experiment_data_dir=tmp_path).compress()  # fmt: skip
    assert widths[0] == 16
    assert min(widths) < 16  # candidates are small


@pytest.mark.parametrize("given", [True, False])
def test_what_an_evaluator_does_to_the_model_it_does_to_a_copy(given: bool, tmp_path: Path) -> None:
    def careless(model):
        with torch.no_grad():
            model.head.bias.add_(1.0)
        model.train()
        return float(model(example()).detach().var())

    model = trained(Chain)
    before = of_model(model)
    pruner = SimulatedAnnealingPruner(model, CONVOLUTIONS, careless, stop_temperature=80, experiment_data_dir=tmp_path,
                                      dummy_input=example() if given else None)  # fmt: skip
    pruner.compress()
    detach(model, bake=False)
    assert of_model(model) == before


def test_smaller_is_better_where_it_is_said(tmp_path: Path) -> None:
    found = {}
    for mode, evaluator in (("maximize", likelihood), ("minimize", _loss)):
        (tmp_path / mode).mkdir()
        pruner = SimulatedAnnealingPruner(trained(Chain), CONVOLUTIONS, evaluator, mode, stop_temperature=60,
                                          experiment_data_dir=tmp_path / mode, dummy_input=example())  # fmt: skip
        found[mode] = pruner.compress(return_config_list=True)
    assert found["maximize"] == found["minimize"]


def test_what_an_evaluator_raises_is_told_with_the_candidate_and_the_model_is_as_it_was(tmp_path: Path) -> None:
    calls = []

    def fails(model):
        calls.append(model)
        if len(calls) == 6:
            raise RuntimeError("disk full")
        return likelihood(model)

    model = trained(Chain)
    before = of_model(model)
    pruner = NetAdaptPruner(model, CONVOLUTIONS, tune, fails, experiment_data_dir=tmp_path, dummy_input=example(),
                            sparsity_per_iteration=0.2)  # fmt: skip
    with pytest.raises(SearchError, match=r"iteration \d wide=0\.\d+, .*RuntimeError: disk full"):
        pruner.compress()
    assert of_model(model) == before
    assert type(model.wide) is torch.nn.Conv2d
    pruner.compress()  # and again: it goes on
    assert pruner.get_config_list()


def test_a_candidate_worth_nan_is_the_worst(tmp_path: Path) -> None:
    def fussy(model):
        return math.nan if model.wide.out_channels < 16 else likelihood(model)

    pruner = NetAdaptPruner(trained(Chain), CONVOLUTIONS, None, fussy, sparsity_per_iteration=0.25,
                            dummy_input=example(), experiment_data_dir=tmp_path)  # fmt: skip
    pruner.compress()
    assert pruner.get_pruned_weights()["wide"] == (16, 16)


@pytest.mark.parametrize("mode", ["maximize", "minimize"])
def test_annealing_takes_steps_though_the_dense_model_is_worth_nan(mode: str, tmp_path: Path) -> None:
    def fussy(model):
        return math.nan if model.wide.out_channels == 16 else (1 if mode == "maximize" else -1) * likelihood(model)

    pruner = SimulatedAnnealingPruner(trained(Chain), CONVOLUTIONS, fussy, mode, stop_temperature=60,
                                      experiment_data_dir=tmp_path, dummy_input=example())  # fmt: skip
    pruner.compress()
    with (tmp_path / "search_history.csv").open() as file:
        steps = len(list(csv.DictReader(file)))
    assert steps < 1 + 5 * 10  # what no step is taken in: ten proposals at each of five temperatures


@pytest.mark.parametrize("worth", [math.nan, math.inf])
def test_a_result_of_which_the_evaluator_said_no_number_is_warned_of(worth: float, tmp_path: Path, caplog) -> None:
    pruner = BudgetSearchPruner(trained(Chain), CONVOLUTIONS, lambda _: worth, 2, experiment_data_dir=tmp_path,
                                dummy_input=example())  # fmt: skip
    pruner.compress()
    assert "as good as drawn by lot" in caplog.text
    assert json.loads((tmp_path / "search_result.json").read_text())["performance"] is None


def test_the_modes_of_all_modules_are_put_back(tmp_path: Path) -> None:
    model = trained(Chain).train()
    model.norm.eval()
    STRATEGIES["net_adapt"](model, likelihood, tmp_path).compress()
    assert [name for name, module in model.named_modules() if not module.training] == ["norm"]


def test_an_evaluator_that_returns_no_number_is_told(tmp_path: Path) -> None:
    def pair(model):
        return likelihood(model), 0

    with pytest.raises(ConfigError, match="returned a tuple; it returns one number"):
        STRATEGIES["budget"](trained(Chain), pair, tmp_path).compress()
