"""Every pruner and quantizer goes into a recipe: data, metric, optimizer and example reach it by themselves."""

from __future__ import annotations

import pytest

from tests.recipe import parts
from torchpare import pruning, quantization
from torchpare.recipe import recipe_of, run_recipe

HALF = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
ADAM = {"name": "Adam", "lr": 2e-3}
BASE = {"model": "tests.recipe.parts:net", "data": {"train": "tests.recipe.parts:train"},
        "evaluate": "tests.recipe.parts:accuracy"}  # fmt: skip
EIGHT = [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]

PRUNERS = {
    "LevelPruner": {},
    "L1FilterPruner": {"arguments": {"mode": "global"}},
    "L2FilterPruner": {},
    "FPGMPruner": {},
    "RandomFilterPruner": {"arguments": {"seed": 3}},
    "SlimPruner": {"arguments": {"sparsifying_training_epochs": 1},
                   "config_list": [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]},
    "ActivationAPoZRankFilterPruner": {},
    "ActivationMeanRankFilterPruner": {},
    "TaylorFOWeightFilterPruner": {"arguments": {"sparsifying_training_batches": 3}},
    "TaylorFOActivationFilterPruner": {},
    "HessianFilterPruner": {},
    "AGPPruner": {"arguments": {"num_iterations": 2, "pruning_algorithm": "l1"}},
    "LinearPruner": {"arguments": {"num_iterations": 2, "pruning_algorithm": "taylorfo"}},
    "LotteryTicketPruner": {"config_list": [{**HALF[0], "prune_iterations": 1}]},
    "ADMMPruner": {"arguments": {"num_iterations": 1, "epochs_per_iteration": 1}},
    "MovementPruner": {"arguments": {"training_epochs": 1, "cool_down_beginning_step": 4}},
    "NetAdaptPruner": {"arguments": {"sparsity_per_iteration": 0.25}},
    "SimulatedAnnealingPruner": {"arguments": {"start_temperature": 40, "cool_down_rate": 0.5}},
    "SensitivityPruner": {"arguments": {"sparsity_per_iter": 0.25}},
    "BudgetSearchPruner": {"arguments": {"trials": 4}},
    "AutoCompressPruner": {"arguments": {"num_iterations": 1, "start_temperature": 40, "cool_down_rate": 0.5,
                                         "admm_num_iterations": 1, "admm_epochs_per_iteration": 1}},
}  # fmt: skip


def test_no_pruner_was_forgotten():
    bases = {"Pruner", "FilterPruner", "DataDrivenPruner", "GradualPruner"}
    aliases = {name for name in pruning.__all__ if getattr(pruning, name).__name__ != name}
    elsewhere = {"AMCPruner", "TransformerHeadPruner"}  # below
    assert set(pruning.__all__) - bases - aliases - elsewhere == set(PRUNERS)


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_masks_what_it_was_asked_to(name, tmp_path):
    stage = {"prune": {"pruner": name, "config_list": HALF, "optimizer": ADAM, **PRUNERS[name]}}
    result = run_recipe(recipe_of({**BASE, "stages": [stage]}), tmp_path / "r")
    assert result.ok
    left = result.stages[1].details["layers"]
    assert left
    if name in ("LevelPruner", "MovementPruner", "LotteryTicketPruner", "AutoCompressPruner"):  # the last one shrinks
        assert result.stages[1].metrics["parameters"] < result.stages[0].metrics["parameters"]
    else:
        assert sum(row["left"] for row in left) < sum(row["of"] for row in left)
    assert not list((tmp_path / "r" / "01-prune").glob("training*"))


@pytest.mark.slow
def test_amc_searches(tmp_path):
    pytest.importorskip("stable_baselines3")
    arguments = {"flops_ratio": 0.6, "train_episode": 4, "warmup": 2, "channel_round": 1}
    stage = {"prune": {"pruner": "AMCPruner", "config_list": [{"op_types": ["Conv2d"]}], "arguments": arguments}}
    result = run_recipe(recipe_of({**BASE, "stages": [stage]}), tmp_path / "r")
    assert result.stages[1].metrics["macs"] < result.stages[0].metrics["macs"]


def test_whole_heads_go(tmp_path):
    said = {"model": "tests.recipe.parts:tokens", "data": {"train": "tests.recipe.parts:sentences"},
            "evaluate": "tests.recipe.parts:right_sentences"}  # fmt: skip
    entry = [{"sparsity": 0.5, "op_types": ["MultiheadAttention"]}]
    stages = [{"prune": {"pruner": "TransformerHeadPruner", "config_list": entry, "arguments": {"head_hidden_dim": 4}}},
              "shrink"]  # fmt: skip
    result = run_recipe(recipe_of({**said, "stages": stages}), tmp_path / "r")
    assert result.stages[2].metrics["parameters"] < result.stages[0].metrics["parameters"]


def test_a_search_runs_in_processes(tmp_path):
    arguments = {"trials": 4, "executor": "processes", "round_size": 2}
    stage = {
        "prune": {"pruner": "BudgetSearchPruner", "config_list": HALF, "fine_tune_epochs": 1, "arguments": arguments}
    }
    here = {**stage["prune"], "arguments": {**arguments, "executor": "serial"}}
    there = run_recipe(recipe_of({**BASE, "stages": [stage]}), tmp_path / "there")
    alone = run_recipe(recipe_of({**BASE, "stages": [{"prune": here}]}), tmp_path / "alone")
    assert there.stages[1].details["config_list"] == alone.stages[1].details["config_list"]


QUANTIZERS = {
    "NaiveQuantizer": {"config_list": [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}]},
    "ObserverQuantizer": {},
    "QATQuantizer": {"epochs": 1},
    "LsqQuantizer": {"epochs": 1},
    "LsqPlusQuantizer": {"epochs": 1},
    "PACTQuantizer": {"epochs": 1},
    "DoReFaQuantizer": {"epochs": 1, "config_list": [{"quant_types": ["weight"], "quant_bits": 8,
                                                      "op_types": ["Conv2d"]}]},
    "BNNQuantizer": {"epochs": 1, "config_list": [{"quant_types": ["weight"], "quant_bits": 1, "op_names": ["conv2"]}]},
}  # fmt: skip


def test_no_quantizer_was_forgotten():
    given = {name for name in quantization.__all__ if isinstance(getattr(quantization, name), type)
             and issubclass(getattr(quantization, name), quantization.Quantizer)
             and getattr(quantization, name).__name__ == name}  # fmt: skip
    assert given - {"Quantizer"} == set(QUANTIZERS)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantizer_is_put_on_and_found_again(name, tmp_path):
    settings = {"quantizer": name, "config_list": EIGHT, "optimizer": {"name": "Adam", "lr": 1e-4}, **QUANTIZERS[name]}
    stages = [{"finetune": {"epochs": 2, "optimizer": ADAM}}, {"prune": {"config_list": HALF}}, "shrink",
              {"quantize": settings}]  # fmt: skip
    result = run_recipe(recipe_of({**BASE, "stages": stages}), tmp_path / "r")
    assert result.ok
    assert result.stages[4].details["places"]
    # The model was read from the files of the stage: it says what it said when the stage measured it.
    assert parts.accuracy(result.model.eval()) == result.stages[4].metrics["accuracy"]
    trained = result.stages[4].details.get("history")
    assert (trained is not None) == ("epochs" in QUANTIZERS[name])


def test_masks_and_quantizers_together_are_found_again(tmp_path):
    stages = [{"prune": {"pruner": "LevelPruner", "config_list": HALF}}, {"quantize": {"config_list": EIGHT}}]
    result = run_recipe(recipe_of({**BASE, "stages": stages}), tmp_path / "r")
    assert parts.accuracy(result.model.eval()) == result.stages[2].metrics["accuracy"]
    assert float((result.model.conv1.weight == 0).double().mean()) >= 0.5


def test_a_quantizer_that_learns_in_training_asks_for_epochs(tmp_path):
    from torchpare.errors import RecipeError

    with pytest.raises(RecipeError, match="has seen no data: give the stage epochs"):
        run_recipe(recipe_of({**BASE, "stages": [{"quantize": {"quantizer": "QAT_Quantizer", "config_list": EIGHT}}]}),
                   tmp_path / "r")  # fmt: skip
