"""What each search is to find, worked out by other means."""

from __future__ import annotations

import copy
import csv
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.search.nets import CONVOLUTIONS, Chain, accuracy, example, likelihood, trained, tune
from tests.search.strategies import STRATEGIES
from torchpare import ModelSpeedup
from torchpare.attach import detach
from torchpare.errors import ConfigError, FileError, SearchError
from torchpare.pruning import (
    AMCPruner,
    AutoCompressPruner,
    BudgetSearchPruner,
    L1FilterPruner,
    LevelPruner,
    NetAdaptPruner,
    SensitivityPruner,
    SimulatedAnnealingPruner,
)
from torchpare.search import Objective
from torchpare.search.fingerprint import of_model
from torchpare.utils import count_flops_params


def _worth(sparsities: dict[str, float], model: torch.nn.Module) -> float:
    """What a net is worth that is pruned by L1 to these sparsities, groups together, and shrunk: by the public API."""
    small = copy.deepcopy(model)
    entries = [{"sparsity": s, "op_names": [name]} for name, s in sparsities.items() if s > 0]
    if entries:
        L1FilterPruner(small, entries, dependency_aware=True, dummy_input=example()).compress()
        ModelSpeedup(small, example()).speedup_model()
    return likelihood(small)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_ends_within_its_objective_and_the_model_shrinks_to_what_was_evaluated(
    name: str, tmp_path: Path
) -> None:
    model = trained(Chain)
    dense_parameters = sum(p.numel() for p in model.parameters())
    pruner = STRATEGIES[name](model, likelihood, tmp_path)
    assert pruner.compress() is model
    result = json.loads((tmp_path / "search_result.json").read_text())
    assert result["config_list"] == pruner.get_config_list()
    if name != "auto_compress":  # which has shrunk the model already
        report = ModelSpeedup(model, example()).speedup_model()
        assert report.exact
    assert likelihood(model) == pytest.approx(result["performance"], rel=1e-4)
    assert sum(p.numel() for p in model.parameters()) < 0.8 * dense_parameters


def test_net_adapt_takes_the_best_layer_in_each_step(tmp_path: Path) -> None:
    model = trained(Chain)
    weights = {"wide": 16 * 9, "stem": 16 * 6, "inner": 6 * 6 * 9}
    units = {"wide": 16, "stem": 6, "inner": 6}
    dense, steps = copy.deepcopy(model), 0
    found: dict[str, int] = dict.fromkeys(weights, 0)
    groups = (("wide",), ("stem", "inner"))  # the residual ties the last two

    def left(drops: dict[str, int]) -> float:
        kept = sum(weights[n] * (units[n] - drops[n]) / units[n] for n in weights)
        return kept / sum(weights.values())

    while left(found) > 0.5:
        goal = max(0.5, left(found) - 0.1)
        candidates = []
        for group in groups:
            for drop in range(found[group[0]] + 1, units[group[0]]):
                tried = {**found, **dict.fromkeys(group, drop)}
                if left(tried) <= goal:
                    share = {n: tried[n] / units[n] for n in tried}
                    candidates.append((_worth(share, dense), tried))
                    break
        found = max(candidates, key=lambda one: one[0])[1]
        steps += 1
    assert steps >= 3

    pruner = NetAdaptPruner(model, CONVOLUTIONS, None, likelihood, sparsity_per_iteration=0.1,
                            experiment_data_dir=tmp_path, dummy_input=example())  # fmt: skip
    pruner.compress()
    assert {n: total - kept for n, (kept, total) in pruner.get_pruned_weights().items()} == found


def test_net_adapt_keeps_what_the_winner_was_trained_to(tmp_path: Path) -> None:
    model = trained(Chain)
    before = copy.deepcopy(model.head.weight)
    pruner = STRATEGIES["net_adapt"](model, likelihood, tmp_path)
    pruner.compress()
    assert not torch.equal(model.head.weight, before)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1  # what it takes to have the result again, and no more


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


@functools.wraps(likelihood)
def _never_needed(model: torch.nn.Module) -> float:
    raise AssertionError("evaluated again")


def test_annealing_looks_at_candidates_of_one_cost_and_keeps_the_best(tmp_path: Path) -> None:
    model = trained(Chain)
    dense = copy.deepcopy(model)
    pruner = SimulatedAnnealingPruner(model, CONVOLUTIONS, likelihood, stop_temperature=40, dummy_input=example(),
                                      experiment_data_dir=tmp_path)  # fmt: skip
    found = pruner.compress(return_config_list=True)
    with (tmp_path / "search_history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > math.log(0.4) / math.log(0.9)
    for row in rows:
        assert 0.5 <= float(row["sparsity"]) < 0.75
        config = {entry["op_names"][0]: entry["sparsity"] for entry in json.loads(row["config_list"])}
        assert float(row["performance"]) == pytest.approx(_worth(config, dense), rel=1e-5)
    best = max(rows, key=lambda row: float(row["performance"]))
    assert json.loads(best["config_list"]) == found
    assert float(json.loads((tmp_path / "search_result.json").read_text())["performance"]) == float(best["performance"])


def test_sensitivity_gives_layers_what_they_bear_alone(tmp_path: Path) -> None:
    model = trained(Chain)
    dense = copy.deepcopy(model)
    at_rest, threshold = likelihood(dense), 0.1
    bears = {}
    for group in (("wide",), ("stem", "inner")):
        bears[group] = 0.0
        for ratio in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            if (
                _worth(dict.fromkeys(group, min(ratio, (6 - 1) / 6 if len(group) > 1 else 15 / 16)), dense)
                < at_rest - threshold
            ):
                break
            bears[group] = ratio
    assert len(set(bears.values())) == 2, "the layers are alike: this test would show nothing"

    pruner = SensitivityPruner(model, CONVOLUTIONS, likelihood, acc_drop_threshold=threshold, sparsity_per_iter=0.5,
                               dummy_input=example(), checkpoint_dir=tmp_path)  # fmt: skip
    pruner.compress()
    rows = SensitivityPruner.load_sensitivity(tmp_path / "Iter_1_sensitivity.csv")
    assert rows["wide"][0.3] == pytest.approx(_worth({"wide": 0.3}, dense), rel=1e-5)
    found = {entry["op_names"][0]: entry["sparsity"] for entry in pruner.get_config_list()}
    if max(found.values()) < 0.9 * 0.95:  # nothing was cut off at the most
        assert found["wide"] / found["stem"] == pytest.approx(bears["wide",] / bears["stem", "inner"], rel=1e-3)


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


def test_auto_compress_returns_a_small_model_and_writes_it(tmp_path: Path) -> None:
    model = trained(Chain)
    pruner = STRATEGIES["auto_compress"](model, likelihood, tmp_path)
    small = pruner.compress()
    assert isinstance(pruner, AutoCompressPruner)
    assert small.wide.out_channels < 16
    pruner.export_model(tmp_path / "small.pth", tmp_path / "mask.pth")
    state = torch.load(tmp_path / "small.pth", weights_only=True)
    assert state["wide.weight"].shape[0] == small.wide.out_channels
    kept = torch.load(tmp_path / "mask.pth", weights_only=True)["wide"]["weight"].flatten(1).any(1)
    assert int(kept.sum()) == small.wide.out_channels


def test_the_budget_search_is_never_worse_than_one_share_for_all(tmp_path: Path) -> None:
    model = trained(Chain)
    dense = copy.deepcopy(model)
    pruner = BudgetSearchPruner(model, CONVOLUTIONS, likelihood, 9, experiment_data_dir=tmp_path, dummy_input=example())
    pruner.compress()
    best = json.loads((tmp_path / "search_result.json").read_text())["performance"]
    for drop in np.arange(0, 1, 0.01):  # the least share with which half of the weights go
        kept = sum(w * (u - math.floor(u * drop + 1e-6)) / u for w, u in ((144, 16), (96, 6), (324, 6)))
        if kept <= 0.5 * (144 + 96 + 324):
            assert best >= _worth(dict.fromkeys(("wide", "stem", "inner"), float(drop)), dense) - 1e-6
            return


def test_amc_keeps_to_its_bounds_and_its_budget(tmp_path: Path) -> None:
    model = trained(Chain)
    before, _, _ = count_flops_params(model, example(), verbose=False)
    pruner = AMCPruner(model, [{"op_types": ["Conv2d"]}], likelihood, flops_ratio=0.6, lbound=0.3, channel_round=2,
                       train_episode=6, warmup=2, output_dir=tmp_path / "logs", dummy_input=example())  # fmt: skip
    pruner.compress()
    for kept, total in pruner.get_pruned_weights().values():
        assert kept >= 0.3 * total
        assert kept % 2 == 0
    ModelSpeedup(model, example()).speedup_model()
    after, _, _ = count_flops_params(model, example(), verbose=False)
    assert after <= 0.6 * before


def test_amc_takes_the_arguments_of_both_older_versions(tmp_path: Path) -> None:
    loader = object()

    def with_loader(data, model):
        assert data is loader
        return likelihood(model)

    model = trained(Chain)
    AMCPruner(model, [{"op_types": ["Conv2d"]}], with_loader, loader, flops_ratio=0.6, train_episode=2, warmup=1,
              model_type="mobilenet", suffix="a", output_dir=tmp_path, dummy_input=example()).compress()  # fmt: skip
    model = trained(Chain)
    small_agent = {"hidden1": 8, "hidden2": 8, "bsize": 4, "warmup": 1}
    AMCPruner(3, model, CONVOLUTIONS, example(), likelihood, pruning_algorithm="l2", log_dir=tmp_path,
              target="params", ddpg_params=small_agent).compress()  # fmt: skip
    assert any((layer.weight == 0).any() for layer in (model.wide, model.stem, model.inner))
    named = AMCPruner(total_episode=3, model=model, config_list=CONVOLUTIONS, dummy_input=example(),
                      evaluator=likelihood, log_dir=tmp_path)  # fmt: skip
    assert named.train_episode == 3
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="there is no folder"):
        AMCPruner(model, CONVOLUTIONS, likelihood, output_dir=tmp_path / "file")
    with pytest.raises(ConfigError, match="'hiden1'"):
        AMCPruner(3, model, CONVOLUTIONS, example(), likelihood, ddpg_params={"hiden1": 8}, log_dir=tmp_path)
    with pytest.raises(ConfigError, match="no argument 'flop_ratio'"):
        AMCPruner(model, CONVOLUTIONS, likelihood, flop_ratio=0.5, output_dir=tmp_path)


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_the_cost_of_a_candidate_is_that_of_the_shrunk_model(metric: str, tmp_path: Path) -> None:
    model = trained(Chain)
    flops, _, _ = count_flops_params(model, example(), verbose=False)
    before = {"params": sum(p.numel() for p in model.parameters()), "macs": flops * len(example())}[metric]
    NetAdaptPruner(model, CONVOLUTIONS, None, likelihood, sparsity_per_iteration=0.2, objective=metric,
                   experiment_data_dir=tmp_path, dummy_input=example()).compress()  # fmt: skip
    ModelSpeedup(model, example()).speedup_model()
    flops, _, _ = count_flops_params(model, example(), verbose=False)
    after = {"params": sum(p.numel() for p in model.parameters()), "macs": flops * len(example())}[metric]
    assert json.loads((tmp_path / "search_result.json").read_text())["cost"] == after
    assert after <= before / 2


class _Sized:
    """A runtime for a test: what it makes of a model knows the model's size."""

    def __init__(self, model: torch.nn.Module, batch: torch.Tensor) -> None:
        assert batch.shape == example().shape
        self.size = sum(p.numel() for p in model.parameters())

    def __call__(self) -> None:
        """Takes no time."""


def test_latency_is_measured_on_the_shrunk_candidate_where_it_will_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchpare.search import costs

    asked = []
    monkeypatch.setattr(costs, "latency", lambda run, runs: asked.append(runs) or 1e-6 * run.size)  # size for time
    monkeypatch.setattr(costs, "relative_latency", lambda run, dense, runs: run.size / dense.size)
    model = trained(Chain)
    dense = 1e-6 * sum(p.numel() for p in model.parameters())
    objective = Objective("latency", limit=0.6 * dense, runtime=_Sized, runs=7)
    SimulatedAnnealingPruner(model, CONVOLUTIONS, likelihood, stop_temperature=80, objective=objective,
                             experiment_data_dir=tmp_path, dummy_input=example()).compress()  # fmt: skip
    ModelSpeedup(model, example()).speedup_model()
    assert 0.4 * dense < 1e-6 * sum(p.numel() for p in model.parameters()) <= 0.6 * dense
    assert asked == [7]


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


def test_single_weights_are_searched_too(tmp_path: Path) -> None:
    model = trained(Chain)
    pruner = SimulatedAnnealingPruner(model, [{"sparsity": 0.7, "op_types": ["default"]}], likelihood,
                                      base_algo="level", stop_temperature=60, experiment_data_dir=tmp_path)  # fmt: skip
    pruner.compress()
    zeros = sum(int((m.weight == 0).sum()) for m in (model.wide, model.stem, model.inner, model.head))
    assert zeros / (144 + 96 + 324 + 12) == pytest.approx(0.7, abs=0.01)


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


def _loss(model: torch.nn.Module) -> float:
    return -likelihood(model)


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


@pytest.mark.parametrize("name", ["net_adapt", "annealing", "sensitivity", "budget"])
def test_layers_keep_multiples_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    model = trained(Chain)
    pruner = STRATEGIES[name](model, likelihood, tmp_path, round_to=2)
    pruner.compress()
    kept = {layer: left for layer, (left, _) in pruner.get_pruned_weights().items()}
    assert kept["wide"] % 2 == kept["stem"] % 2 == 0
    assert kept["stem"] == kept["inner"]


def test_the_first_sparsity_of_the_config_list_is_the_overall_one(tmp_path: Path) -> None:
    entries = [{"sparsity": 0.3, "op_types": ["Conv2d"]}, {"sparsity": 0.9, "op_names": ["wide"]}]
    assert STRATEGIES["annealing"](trained(Chain), likelihood, tmp_path).sparsity == 0.5
    pruner = SimulatedAnnealingPruner(trained(Chain), entries, likelihood, experiment_data_dir=tmp_path)
    assert pruner.sparsity == 0.3


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


def test_level_is_what_it_was(tmp_path: Path) -> None:
    one, two = trained(Chain), trained(Chain)
    SimulatedAnnealingPruner(one, [{"sparsity": 0.5, "op_names": ["wide"]}], likelihood, base_algo="level",
                             stop_temperature=90, experiment_data_dir=tmp_path).compress()  # fmt: skip
    LevelPruner(two, [{"sparsity": 0.5, "op_names": ["wide"]}]).compress()
    assert torch.equal(one.wide.weight, two.wide.weight)
