"""What each search is to find, worked out by other means."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.search import strategies
from tests.search.nets import CONVOLUTIONS, Chain, example, likelihood, trained, tune
from tests.search.strategies import STRATEGIES
from torchpare import ModelSpeedup, apply_compression_results
from torchpare.errors import ConfigError
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


@pytest.mark.parametrize("given", [{"wide": 0.2, "stem": 0.4}, {"wide": 0.6, "stem": 0.2}])
def test_layers_lose_in_the_proportions_that_the_user_s_function_gives(given: dict[str, float], tmp_path: Path) -> None:
    told: list[dict[str, float]] = []

    def proportions(ratios: dict[str, float]) -> dict[str, float]:
        told.append(dict(ratios))
        return given

    model = trained(Chain)
    pruner = SensitivityPruner(model, [{"sparsity": 0.3, "op_types": ["Conv2d"]}], likelihood, None, "l1", proportions,
                               0.5, 0.1, dummy_input=example(), experiment_data_dir=tmp_path)  # fmt: skip
    pruner.compress()
    found = pruner.sparsities()
    assert found["stem"] / found["wide"] == pytest.approx(given["stem"] / given["wide"], rel=1e-6)
    assert len(told) == 1
    assert told[0].keys() == {"wide", "stem"}
    assert all(any(ratio == pytest.approx(at / 10) for at in range(10)) for ratio in told[0].values())


def test_sensitivity_goes_down_step_by_step_and_looks_anew_at_what_is_left(tmp_path: Path) -> None:
    model = trained(Chain)
    dense = copy.deepcopy(model)
    threshold = 0.1
    pruner = SensitivityPruner(
        model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}], likelihood, acc_drop_threshold=threshold,
        sparsity_per_iter=0.2, dummy_input=example(), checkpoint_dir=tmp_path,
    )  # fmt: skip
    pruner.compress()
    gone, at = 0.0, 0
    now = {"wide": 0.0, "stem": 0.0, "inner": 0.0}
    while gone < 0.5:
        at, asked = at + 1, min(gone + 0.2, 0.5)
        rows = SensitivityPruner.load_sensitivity(tmp_path / f"Iter_{at}_sensitivity.csv")
        at_rest = _worth(now, dense)
        for first, group in (("wide", ("wide",)), ("stem", ("stem", "inner"))):
            for ratio, value in rows[first].items():  # a ratio of what the layer has left by now
                share = min(now[first] + (1 - now[first]) * ratio, 15 / 16 if first == "wide" else 5 / 6, 0.95)
                assert value == pytest.approx(_worth({**now, **dict.fromkeys(group, share)}, dense), rel=1e-4)
            *before, last = rows[first].values()
            assert all(value >= at_rest - threshold for value in before)
            assert last < at_rest - threshold or len(rows[first]) == 9
        (written,) = tmp_path.glob(f"Iter_{at}_finetune_acc_*.pth")
        gone = float(written.stem.rsplit("_", 1)[1])
        one_filter = (96 + 324) / 6 / (144 + 96 + 324)  # of both layers on the residual
        assert asked - 1e-4 <= gone < asked + one_filter
        entries = json.loads(written.with_name(f"{written.stem}_pruner.json").read_text())
        now.update({entry["op_names"][0]: entry["sparsity"] for entry in entries})
    assert at > 1
    assert not list(tmp_path.glob(f"Iter_{at + 1}_*"))


def test_sensitivity_writes_what_each_iteration_came_to(tmp_path: Path) -> None:
    model = trained(Chain)
    pruner = SensitivityPruner(model, CONVOLUTIONS, likelihood, tune, sparsity_per_iter=0.3, dummy_input=example(),
                               checkpoint_dir=tmp_path)  # fmt: skip
    pruner.compress()
    written = sorted(tmp_path.glob("Iter_*.pth"))
    assert [path.name.split("_")[1] for path in written] == ["1", "2"]
    result = json.loads((tmp_path / "search_result.json").read_text())
    score, gone = result["performance"], 1 - result["cost"]
    assert written[-1].stem == f"Iter_2_finetune_acc_{score:.5f}_sparsity_{gone:.4f}"
    assert json.loads(written[-1].with_name(f"{written[-1].stem}_pruner.json").read_text()) == pruner.get_config_list()
    again = Chain()
    again.load_state_dict(torch.load(written[-1], weights_only=True))
    assert int((again.wide.weight.flatten(1) == 0).all(1).sum()) == int((~model.wide.weight_mask).sum()) > 0
    # what is told is what came of fine-tuning, not what it began with
    assert likelihood(again.eval()) == pytest.approx(score, rel=1e-4)


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
    again = Chain()
    again.load_state_dict(torch.load(tmp_path / "logs" / "best_model.pth", weights_only=True))
    apply_compression_results(again, tmp_path / "logs" / "best_mask.pth")
    ModelSpeedup(model, example()).speedup_model()
    ModelSpeedup(again, example(), tmp_path / "logs" / "best_mask.pth").speedup_model()
    assert [layer.weight.shape for layer in (again.wide, again.stem)] == [
        model.wide.weight.shape,
        model.stem.weight.shape,
    ]
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


def test_single_weights_are_searched_too(tmp_path: Path) -> None:
    model = trained(Chain)
    pruner = SimulatedAnnealingPruner(model, [{"sparsity": 0.7, "op_types": ["default"]}], likelihood,
                                      base_algo="level", stop_temperature=60, experiment_data_dir=tmp_path)  # fmt: skip
    pruner.compress()
    zeros = sum(int((m.weight == 0).sum()) for m in (model.wide, model.stem, model.inner, model.head))
    assert zeros / (144 + 96 + 324 + 12) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("granularity", [[4, 2], "2:4"])
def test_what_was_found_goes_as_a_whole_again(granularity: Any, tmp_path: Path) -> None:
    entries = [{"sparsity": 0.5, "granularity": granularity, "op_names": ["stem", "inner"]}]
    model, again = trained(Chain), trained(Chain)
    pruner = BudgetSearchPruner(model, entries, likelihood, 3, base_algo="level", experiment_data_dir=tmp_path)
    pruner.compress()
    found = json.loads((tmp_path / "search_result.json").read_text())["config_list"]
    assert found == pruner.get_config_list()
    LevelPruner(again, found).compress()
    for layer, own in pruner.get_masks().items():
        assert torch.equal(again.get_submodule(layer).weight_mask, own["weight"])


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


ANYWHERE = [{"op_types": ["Conv2d"]}]


@pytest.mark.parametrize("name", ["net_adapt", "annealing", "sensitivity", "auto_compress", "amc", "budget"])
def test_with_a_limit_the_entries_only_say_where(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "CONVOLUTIONS", ANYWHERE)
    model = trained(Chain)
    limit = 0.6 * sum(p.numel() for p in model.parameters())
    STRATEGIES[name](model, likelihood, tmp_path, objective=Objective("params", limit=limit)).compress()
    if name != "auto_compress":  # which shrinks the model itself
        ModelSpeedup(model, example()).speedup_model()
    assert 0.3 * limit < sum(p.numel() for p in model.parameters()) <= limit


@pytest.mark.parametrize("objective", [None, "params", Objective("latency")])
def test_without_a_limit_and_without_a_sparsity_nothing_says_how_much(objective: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing says how much.*'sparsity': 0.5.*limit="):
        NetAdaptPruner(trained(Chain), ANYWHERE, None, likelihood, objective=objective, experiment_data_dir=tmp_path)


def test_no_layer_loses_more_than_its_entry_allows(tmp_path: Path) -> None:
    def found(entries: Any) -> dict[str, float]:
        pruner = NetAdaptPruner(trained(Chain), entries, None, likelihood, sparsity_per_iteration=0.2, objective="macs",
                                experiment_data_dir=tmp_path, dummy_input=example())  # fmt: skip
        pruner.compress()
        return pruner.sparsities()

    freely = found(CONVOLUTIONS)
    most = max(freely, key=lambda name: freely[name])
    cap = 0.6 * freely[most]
    assert found([*CONVOLUTIONS, {**CONVOLUTIONS[0], "op_names": [most], "max_sparsity_per_layer": cap}])[most] <= cap


def test_level_is_what_it_was(tmp_path: Path) -> None:
    one, two = trained(Chain), trained(Chain)
    SimulatedAnnealingPruner(one, [{"sparsity": 0.5, "op_names": ["wide"]}], likelihood, base_algo="level",
                             stop_temperature=90, experiment_data_dir=tmp_path).compress()  # fmt: skip
    LevelPruner(two, [{"sparsity": 0.5, "op_names": ["wide"]}]).compress()
    assert torch.equal(one.wide.weight, two.wide.weight)


def test_steps_of_annealing_get_shorter_as_it_cools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchpare.search import simulated_annealing

    widths: list[float] = []
    plain = simulated_annealing.perturbed

    def watched(sparsities: Any, width: float, generator: np.random.Generator) -> Any:
        widths.append(width)
        return plain(sparsities, width, generator)

    monkeypatch.setattr(simulated_annealing, "perturbed", watched)
    SimulatedAnnealingPruner(
        trained(Chain), CONVOLUTIONS, likelihood, start_temperature=100,
        stop_temperature=20, cool_down_rate=0.5, perturbation_magnitude=0.3, experiment_data_dir=tmp_path,
        dummy_input=example(),
    ).compress()  # fmt: skip
    assert widths[0] == pytest.approx(0.3)
    assert widths[-1] == pytest.approx(0.3 / 4)  # at 25 degrees, the last above where it stops
    assert {round(width / 0.3, 6) for width in widths} == {1.0, 0.5, 0.25}


def test_auto_compress_goes_down_by_the_same_factor_in_each_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchpare.search import auto_compress

    limits: list[float] = []
    plain = auto_compress.anneal

    def watched(run: Any, cooling: Any, stage: str, limit: float, already: Any) -> Any:
        limits.append(limit / run.dense.cost)
        return plain(run, cooling, stage, limit, already)

    monkeypatch.setattr(auto_compress, "anneal", watched)
    STRATEGIES["auto_compress"](trained(Chain), likelihood, tmp_path).compress()
    rounds = len(limits)
    assert rounds > 1
    assert [limits[n] for n in range(rounds)] == pytest.approx(
        [limits[-1] ** ((n + 1) / rounds) for n in range(rounds)]
    )


def test_a_step_of_sensitivity_is_a_share_of_the_dense_model(tmp_path: Path) -> None:
    asked = [{"sparsity": 0.6, "op_names": ["wide"]}]
    SensitivityPruner(trained(Chain), asked, likelihood, sparsity_per_iter=0.25, dummy_input=example(),
                      checkpoint_dir=tmp_path).compress()  # fmt: skip
    gone = sorted(float(path.stem.rsplit("_", 1)[1]) for path in tmp_path.glob("Iter_*_finetune_*.pth"))
    assert gone == [4 / 16, 8 / 16, 10 / 16]  # a quarter, another one, and what is missing to 0.6


def test_the_first_proposal_is_that_all_layers_lose_alike(tmp_path: Path) -> None:
    pruner = BudgetSearchPruner(trained(Chain), CONVOLUTIONS, likelihood, 1, experiment_data_dir=tmp_path)
    pruner.compress()
    found = pruner.sparsities()
    assert found["wide"] == pytest.approx(found["stem"])
    assert found["wide"] >= 0.4
