"""A recipe at work: what it does, what it takes from an earlier run, where it stops, and what it refuses beforehand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import torchpare
from tests.recipe import parts
from torchpare.errors import ConfigError, FileError, RecipeError
from torchpare.pruning import L1FilterPruner
from torchpare.recipe import Given, recipe_of, run_recipe
from torchpare.recipe.reading import read_result
from torchpare.search.fingerprint import of_model

HALF = [{"sparsity": 0.5, "op_types": ["Conv2d"], "op_names": ["conv1"]}]
ADAM = {"name": "Adam", "lr": 2e-3}
BASE = {"name": "small", "model": "tests.recipe.parts:net", "data": {"train": "tests.recipe.parts:train"},
        "evaluate": "tests.recipe.parts:accuracy"}  # fmt: skip


def recipe(*stages, **more):
    return recipe_of({**BASE, "stages": list(stages), **more})


def stamps(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/stage.json")}


MAIN = (
    {"prune": {"config_list": HALF}},
    {"finetune": {"epochs": 2, "optimizer": ADAM}},
    "shrink",
    {"quantize": {"budget": "accuracy >= dense - 0.5"}},
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "main"
    return folder, run_recipe(recipe(*MAIN), folder)


def test_every_stage_leaves_what_it_should(ran):
    folder, result = ran
    assert result.ok
    assert [stage.name for stage in result.stages] == ["dense", "prune", "finetune", "shrink", "quantize"]
    dense, prune, finetune, shrink, quantize = (dict(stage.metrics) for stage in result.stages)
    assert prune["macs"] < dense["macs"]
    assert shrink["parameters"] < dense["parameters"]
    assert shrink["size"] < dense["size"]
    assert shrink["accuracy"] == finetune["accuracy"]  # the proof, in other words
    assert finetune["accuracy"] > dense["accuracy"] + 0.1
    assert abs(quantize["accuracy"] - shrink["accuracy"]) < 0.05
    assert result.stages[3].details["shrink"]["largest_difference"] < 1e-10
    assert len(result.stages[2].details["history"]) == 2
    small = torchpare.load(parts.net(), folder / "03-shrink" / "model.safetensors")
    assert small.conv1.out_channels == 4
    assert parts.accuracy(small.eval()) == shrink["accuracy"]


def test_masked_weights_are_counted_one_by_one(ran):
    _, result = ran
    dense = sum(parameter.numel() for parameter in parts.net().parameters())
    # Of four of the eight filters: 9 weights and a bias, the norm's scale and shift, and what conv2 reads of them.
    assert result.stages[0].metrics["parameters"] == dense
    own = 4 * (9 + 1) + 4 * 2
    assert dense - own - 4 * 8 * 9 <= result.stages[1].metrics["parameters"] <= dense - own


def test_the_stages_are_what_the_library_does_by_hand(ran):
    _, result = ran
    torch.manual_seed(0)
    model = parts.net().eval()
    pruner = L1FilterPruner(model, HALF, dummy_input=parts.digits()[0][:2])
    pruner.compress()
    assert result.stages[1].metrics["accuracy"] == parts.accuracy(model)
    torchpare.ModelSpeedup(model, parts.digits()[0][:2]).speedup_model()
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert result.stages[3].metrics["parameters"] == counted


def test_a_second_run_takes_everything_from_the_first(ran):
    folder, result = ran
    before = stamps(folder)
    again = run_recipe(recipe(*MAIN), folder)
    assert stamps(folder) == before
    assert again.to_dict() == result.to_dict()
    assert of_model(again.model) == of_model(result.model)


def test_a_run_elsewhere_ends_with_the_same_weights(ran, tmp_path):
    _, result = ran
    other = run_recipe(recipe(*MAIN), tmp_path / "elsewhere")
    assert of_model(other.model) == of_model(result.model)
    assert [dict(stage.metrics) for stage in other.stages] == [dict(stage.metrics) for stage in result.stages]


def test_what_changes_is_run_anew_with_what_follows(ran, tmp_path):
    folder = shutil.copytree(ran[0], tmp_path / "copy")
    before = stamps(folder)
    changed = [*MAIN[:2], "shrink", {"quantize": {"calibration_batches": 2}}]
    run_recipe(recipe(*changed), folder)
    after = stamps(folder)
    assert {name for name in after if before[name] != after[name]} == {"04-quantize"}
    run_recipe(recipe(MAIN[0], {"finetune": {"epochs": 1, "optimizer": ADAM}}, *MAIN[2:]), folder)
    assert {name for name in after if stamps(folder)[name] != after[name]} == {
        "02-finetune",
        "03-shrink",
        "04-quantize",
    }
    run_recipe(recipe(*MAIN, seed=1), folder)
    assert all(stamps(folder)[name] != before[name] for name in before)


def test_stages_of_an_earlier_recipe_go_and_nothing_else_does(ran, tmp_path):
    folder = shutil.copytree(ran[0], tmp_path / "copy")
    (folder / "03-mine").mkdir()
    (folder / "03-mine" / "notes.txt").write_text("keep")
    run_recipe(recipe(*MAIN[:2]), folder)  # done already: what was behind it is not touched
    assert (folder / "04-quantize").exists()
    run_recipe(recipe(MAIN[0], "shrink"), folder)
    assert sorted(path.name for path in folder.glob("0*")) == ["00-dense", "01-prune", "02-shrink", "03-mine"]


def test_a_new_budget_is_judged_without_running_anything(ran, tmp_path):
    folder = shutil.copytree(ran[0], tmp_path / "copy")
    before = stamps(folder)
    strict = [*MAIN[:1], {"finetune": {"epochs": 2, "optimizer": ADAM, "budget": "accuracy >= 1.01"}}, *MAIN[2:]]
    result = run_recipe(recipe(*strict), folder)
    assert stamps(folder) == before
    assert not result.ok
    assert len(result.stages) == 3
    assert "stopped after stage 2 (finetune): accuracy >= 1.01: missed, accuracy is" in result.verdict
    assert read_result(folder).verdict == result.verdict


def test_a_missed_budget_stops_before_the_next_stage(tmp_path):
    result = run_recipe(
        recipe({"prune": {"config_list": HALF, "budget": "parameters <= 0.1x"}}, "shrink"), tmp_path / "r"
    )
    assert not result.ok
    assert not (tmp_path / "r" / "02-shrink").exists()
    assert result.model is not None


def test_a_stage_that_fails_leaves_the_ones_before_it_done(tmp_path):
    bad = {"finetune": {"epochs": 1, "optimizer": {"name": "SGD", "lr": 1e30}}}
    with pytest.raises(RecipeError, match=r"stage 2 \(finetune\) failed: training diverged") as caught:
        run_recipe(recipe({"prune": {"config_list": HALF}}, bad, "shrink"), tmp_path / "r")
    assert "run the recipe again" in str(caught.value)
    before = stamps(tmp_path / "r")
    result = run_recipe(
        recipe({"prune": {"config_list": HALF}}, {"finetune": {"optimizer": ADAM}}, "shrink"), tmp_path / "r"
    )
    assert result.ok
    assert stamps(tmp_path / "r")["01-prune"] == before["01-prune"]


def test_fresh_runs_everything_anew_to_the_same_weights(ran, tmp_path):
    folder = shutil.copytree(ran[0], tmp_path / "copy")
    before = stamps(folder)
    result = run_recipe(recipe(*MAIN), folder, resume=False)
    assert all(stamps(folder)[name] != before[name] for name in before)
    assert of_model(result.model) == of_model(ran[1].model)


@pytest.mark.parametrize(
    ("stages", "more", "expected"),
    [
        (["shrink"], {}, r"stages\[0\].shrink: there are no masks to cut out"),
        ([{"prune": {"config_list": HALF}}, "shrink", "shrink"], {}, r"stages\[2\].shrink: there are no masks"),
        ([{"prune": {"pruner": "L1FilterPrunner", "config_list": HALF}}], {}, "did you mean 'L1FilterPruner'"),
        ([{"prune": {"config_list": [{"sparsity": 0.5, "op_names": ["conv9"]}]}}], {}, "conv9"),
        ([{"prune": {"config_list": HALF, "arguments": {"flavour": 3}}}], {}, "does not take these arguments"),
        ([{"prune": {"pruner": "os:getcwd", "config_list": HALF}}], {}, "is no pruner"),
        ([{"quantize": {"quantizer": "QAT_Quantiser"}}], {}, "did you mean 'QAT_Quantizer'"),
        (["quantize", {"prune": {"config_list": HALF}}], {}, r"stages\[1\].prune: the model is quantized already"),
        (["quantize", {"export": {"formats": ["safetensors"]}}], {}, "'safetensors' holds plain models"),
        ([{"finetune": {"optimizer": {"name": "Adm"}}}], {}, "there is no optimizer 'Adm'"),
        ([{"finetune": {"optimizer": {"name": "SGD", "learning_rate": 1}}}], {}, "does not take"),
        ([{"finetune": {"distil": {"terms": [{"soft_target": {}}]}}}], {}, "soft_targets"),
        ([{"finetune": {"budget": "latency <= 3 ms"}}], {}, "only a stage 'benchmark' measures"),
        (["finetune"], {"data": {}, "example_inputs": "2x1x8x8"}, "no training data"),
        (["finetune"], {"data": {}}, "neither 'example_inputs' nor training data"),
        (["finetune"], {"model": "tests.recipe.parts:broken"}, "no weights here"),
        (["finetune"], {"model": "tests.recipe.parts:nothing"}, "cannot be found"),
        (["finetune"], {"model": None}, "names no model"),
        (["finetune"], {"data": {"train": "tests.recipe.parts:reader"}}, "cannot be gone through again and again"),
        (["finetune"], {"checkpoint": "nowhere.pth"}, "nowhere.pth cannot be loaded into this Net"),
        (
            [{"prune": {"pruner": "NetAdaptPruner", "config_list": HALF}}],
            {"evaluate": None},
            "give the recipe 'evaluate'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(tmp_path, stages, more, expected):
    with pytest.raises((ConfigError, FileError), match=expected):
        run_recipe(recipe(*stages, **more), tmp_path / "r")
    assert not list((tmp_path / "r").glob("0*"))


def test_two_runs_do_not_meet_in_one_folder(tmp_path):
    from torchpare.search.journal import alone_in

    (tmp_path / "r").mkdir()
    with alone_in(tmp_path / "r"), pytest.raises(FileError, match="another process is at work"):
        run_recipe(recipe("finetune"), tmp_path / "r")


def test_spoilt_files_are_named(ran, tmp_path):
    folder = shutil.copytree(ran[0], tmp_path / "copy")
    (folder / "02-finetune" / "stage.json").write_text("{", encoding="utf-8")
    with pytest.raises(FileError, match=r"02-finetune.* to run the stage anew"):
        run_recipe(recipe(*MAIN), folder)
    shutil.rmtree(folder / "02-finetune")
    (folder / "01-prune" / "state.safetensors").write_bytes(b"no tensors")
    with pytest.raises((FileError, RecipeError), match="does not fit the model"):
        run_recipe(recipe(*MAIN), folder)


def test_a_checkpoint_gives_the_dense_weights(tmp_path):
    torch.manual_seed(7)
    model = parts.net()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    torchpare.save(model, tmp_path / "model.safetensors")
    for name in ("model.pth", "model.safetensors"):
        result = run_recipe(recipe({"prune": {"config_list": HALF}}, checkpoint=name), tmp_path / f"run-{name}",
                            Given(folder=tmp_path))  # fmt: skip
        assert result.stages[0].metrics["accuracy"] == parts.accuracy(model.eval())


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(FileError, match="cannot be loaded"):
        run_recipe(recipe("finetune", checkpoint=str(tmp_path / "evil.pth")), tmp_path / "r")
    assert not (tmp_path / "pwned").exists()


def test_a_sequence_model_called_by_keyword_goes_through_the_same_stages(tmp_path):
    stages = [
        {"prune": {"config_list": [{"sparsity": 0.5, "op_names": ["block.linear1"]}]}},
        "shrink",
        {"finetune": {"epochs": 6, "optimizer": {"name": "Adam", "lr": 1e-2}}},
        {"quantize": {"config_list": [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Linear"]}]}},
    ]
    said = {"model": "tests.recipe.parts:tokens", "data": {"train": "tests.recipe.parts:sentences"},
            "evaluate": "tests.recipe.parts:right_sentences"}  # fmt: skip
    result = run_recipe(recipe(*stages, **said), tmp_path / "r")
    assert result.ok
    assert result.stages[2].metrics["parameters"] < result.stages[0].metrics["parameters"]
    losses = [epoch["loss"] for epoch in result.stages[3].details["history"]]
    assert losses[-1] < losses[0]


def test_the_figures_on_disk_are_the_result_s(ran):
    folder, result = ran
    read = read_result(folder)
    assert read.to_dict() == result.to_dict()
    assert json.loads((folder / "result.json").read_text(encoding="utf-8"))["verdict"] == result.verdict


def test_a_study_is_kept_and_stands_on_the_page(tmp_path):
    from torchpare.recipe.page import page_of

    result = run_recipe(recipe({"study": {"batches": 1, "sensitivity": True, "sparsities": [0.5]}}), tmp_path / "r")
    titles = [section.title for section in page_of(read_result(tmp_path / "r")).sections]
    assert {"Costs by layer", "Sensitivity", "Quantization error", "Activation ranges"} <= set(titles)
    assert page_of(result).to_dict() == page_of(read_result(tmp_path / "r")).to_dict()
    assert json.loads((tmp_path / "r" / "01-study" / "insight.json").read_text(encoding="utf-8"))["costs"]
    dense = tmp_path / "r" / "00-dense" / "model.safetensors"
    assert of_model(result.model) == of_model(torchpare.load(parts.net(), dense))
    with pytest.raises(ConfigError, match="what is looked at is a plain model"):
        run_recipe(recipe({"prune": {"config_list": HALF}}, "study"), tmp_path / "y")


@pytest.mark.slow
def test_files_are_written_and_timed_and_read_by_their_runtime(tmp_path):
    stages = [
        {"prune": {"config_list": HALF}},
        "shrink",
        {"export": {"name": "files", "formats": ["safetensors", "torch", "onnx"], "budget": "size <= 100 kB"}},
        "quantize",
        {"export": {"formats": ["onnx"]}},
        {"benchmark": {"batch_sizes": [2], "runs": 3, "memory": False, "must_be_faster": False,
                       "budget": ["speedup >= 0.001", "accuracy >= dense - 0.9"]}},
    ]  # fmt: skip
    result = run_recipe(recipe(*stages, evaluate="tests.recipe.parts:several"), tmp_path / "r")
    assert result.ok, result.verdict
    files, int8 = (result.stages[number].details["files"] for number in (3, 5))
    assert [row["format"] for row in files] == ["safetensors", "torch", "onnx"]
    assert files[2]["difference"] < 1e-4
    assert int8[0]["first_offending"] is None
    assert (tmp_path / "r" / "03-files" / "files" / "model.onnx").exists()
    bench = result.stages[6]
    assert {row["name"] for row in bench.details["benchmark"]["rows"]} == {"dense", "compressed"}
    assert bench.metrics["latency"] > 0
    assert abs(bench.details["metrics"]["onnxruntime"]["accuracy"] - result.stages[4].metrics["accuracy"]) < 0.05
    assert bench.metrics["accuracy"] == bench.details["metrics"]["onnxruntime"]["accuracy"]


@pytest.mark.slow
def test_a_model_that_is_not_faster_stops_the_run_with_the_reason(tmp_path):
    result = run_recipe(
        recipe({"benchmark": {"runs": 5, "memory": False}}), tmp_path / "r"
    )  # the dense model beside itself
    if result.stages[1].metrics["speedup"] <= 1:
        assert not result.ok
        assert "times as fast as dense in ONNX Runtime" in result.verdict
    else:
        assert result.ok


@pytest.mark.slow
def test_memory_has_budgets_where_it_is_measured(tmp_path):
    stage = {"benchmark": {"runs": 2, "must_be_faster": False, "budget": ["memory <= 1 GB", "memory <= 2x"]}}
    result = run_recipe(recipe(stage), tmp_path / "r")
    assert [verdict.holds for verdict in result.stages[1].verdicts] == [True, True]
    assert result.stages[1].metrics["memory"] > 0


def test_an_answer_that_a_runtime_could_not_give_meets_no_budget():
    from torchpare.recipe.budget import Budget, read_budget
    from torchpare.recipe.stages.benchmark import _worst

    assert _worst([0.9, 0.7, 0.95], 0.9) == 0.7
    unknown = _worst([0.9, float("nan")], 0.9)
    for text in ("accuracy >= 0.5", "accuracy <= 0.5"):
        assert not Budget.model_validate(read_budget(text)).judge({"accuracy": unknown}, {}).holds
