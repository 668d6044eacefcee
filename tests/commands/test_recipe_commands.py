"""`torchpare run`, `plan`, `report`, `inspect` and `schema` on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import torchpare
from tests.recipe import parts
from torchpare.cli import app
from torchpare.files.calibration import save_calibration
from torchpare.files.masks import save_masks

RECIPE = """
name: small
model: here_of_a_test:net
data: {train: here_of_a_test:train}
evaluate: here_of_a_test:accuracy
stages:
  - prune:
      config_list: [{sparsity: 0.5, op_types: [Conv2d]}]
  - shrink: {budget: parameters <= 0.8x}
"""


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words], terminal_width=200)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "here_of_a_test.py").write_text("from tests.recipe.parts import net, train, accuracy\n", encoding="utf-8")
    (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder / "small.yaml"


def test_a_recipe_is_planned_run_reported_and_looked_into(recipe, tmp_path):
    planned = run("plan", recipe, "--json", "plan.json")
    assert planned.exit_code == 0, planned.output
    assert "parameters <= 0.8x" in planned.stdout
    assert "What would go" in planned.stdout
    assert not (tmp_path / "runs").exists()
    assert [stage["done"] for stage in json.loads(Path("plan.json").read_text())["stages"]] == [False, False]

    done = run("run", recipe, "--json", "-")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["ok"]
    assert said["verdict"] == "all stages are done and its budget is met"
    page = Path("runs/small/report.html").read_text(encoding="utf-8")
    assert "Stage by stage" in page
    assert [stage["done"] for stage in json.loads(run("plan", recipe, "--json", "-").stdout)["stages"]] == [True, True]

    told = run("report", "runs/small", "--html", "other.html")
    assert told.exit_code == 0
    assert "its budget is met" in told.stdout
    assert Path("other.html").read_text(encoding="utf-8") == page

    assert "a run of the recipe small" in run("inspect", "runs/small").stdout


def test_a_missed_budget_is_exit_code_1(recipe):
    recipe.write_text(RECIPE.replace("0.8x", "0.1x"), encoding="utf-8")
    missed = run("run", recipe)
    assert missed.exit_code == 1
    assert "stopped after stage 2 (shrink): parameters <= 0.1x: missed" in missed.stdout
    assert Path("runs/small/report.html").exists()


def test_what_is_not_understood_is_exit_code_2_with_its_line(recipe):
    recipe.write_text(RECIPE.replace("shrink: {budget", "shrink: {budjet"), encoding="utf-8")
    wrong = run("run", recipe)
    assert wrong.exit_code == 2
    flat = "".join(wrong.stderr.split()).replace("│", "")
    assert "small.yaml:9:stages[1].shrink.budjet:thereisnokey'budjet'here;didyoumean'budget'?" in flat
    assert run("report", "nowhere").exit_code == 2
    assert run("inspect", "nowhere.pth").exit_code == 2


def test_a_stage_that_fails_is_exit_code_3(recipe):
    more = "  - finetune: {optimizer: {name: SGD, lr: 1e30}}\n"
    recipe.write_text(RECIPE + more, encoding="utf-8")
    failed = run("run", recipe)
    assert failed.exit_code == 3
    assert "stage 3 (finetune) failed: training diverged" in failed.stderr
    assert run("report", "runs/small").exit_code == 0  # of what is there


def test_fresh_runs_anew(recipe):
    run("run", recipe)
    stamp = Path("runs/small/00-dense/stage.json").stat().st_mtime_ns
    run("run", recipe)
    assert Path("runs/small/00-dense/stage.json").stat().st_mtime_ns == stamp
    run("run", recipe, "--fresh")
    assert Path("runs/small/00-dense/stage.json").stat().st_mtime_ns != stamp


def test_every_word_has_help_with_an_example():
    for word in ("run", "plan", "report", "inspect", "schema", "bench", "verify"):
        helped = run(word, "--help")
        assert helped.exit_code == 0
        assert f"torchpare {word}" in helped.stdout or word == "schema"
    assert "Exit codes" in run("--help").stdout


def test_the_schema_is_json(tmp_path):
    assert json.loads(run("schema").stdout)["$defs"]["PruneStage"]
    assert run("schema", tmp_path / "recipe.schema.json").exit_code == 0
    assert json.loads((tmp_path / "recipe.schema.json").read_text())["properties"]["stages"]


# ------------------------------------------------------------------------------------------------- what files hold


def facts(path):
    looked = run("inspect", path, "--json", "-")
    assert looked.exit_code == 0, looked.output
    return json.loads(looked.stdout)


def test_files_say_what_they_are(tmp_path):
    model = parts.net(4)
    torchpare.save(model, tmp_path / "small.safetensors")
    said = facts(tmp_path / "small.safetensors")
    assert "a model of torchpare.save" in said["what"]
    assert said["facts"]["class"] == "Net"
    assert {row["name"] for row in said["rows"]} == set(model.state_dict())

    save_masks({"conv1": {"weight": torch.tensor([True, False, True, False]).view(4, 1, 1, 1)}}, tmp_path / "mask.pth")
    said = facts(tmp_path / "mask.pth")
    assert said["rows"] == [{"layer": "conv1", "parameter": "weight", "masked": "along axis 0", "kept": "2", "of": "4",
                             "gone": "50.0%"}]  # fmt: skip

    torch.save(model.state_dict(), tmp_path / "model.pth")
    assert facts(tmp_path / "model.pth")["what"] == "a state dict"

    from torchpare.quantization import NaiveQuantizer

    quantizer = NaiveQuantizer(model, [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}])
    quantizer.compress()
    save_calibration(quantizer.export_model(tmp_path / "q.pth"), tmp_path / "calibration.pth")
    said = facts(tmp_path / "calibration.pth")
    assert said["what"] == "a calibration of quantized layers"
    assert {row["layer"] for row in said["rows"]} == {"conv1", "conv2"}

    from torchpare.files.onnx import export_onnx

    export_onnx(parts.net(4), tmp_path / "model.onnx", torch.zeros(2, 1, 8, 8))
    said = facts(tmp_path / "model.onnx")
    assert said["facts"]["quantized"] == "no"
    assert {row["operator"] for row in said["rows"]} >= {"Conv", "Relu"}


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    looked = run("inspect", tmp_path / "evil.pth")
    assert looked.exit_code == 2
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.onnx", "a.json", "a.jsonl", "a.yaml", "a.pth", "a.bin"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x04no", b"{", b"\xff\xfe\x00"])
def test_spoilt_files_are_named_not_thrown(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    looked = run("inspect", tmp_path / name)
    assert looked.exit_code in (0, 2), looked.exception
    assert looked.exception is None or isinstance(looked.exception, SystemExit)


def test_models_of_a_run_are_timed_and_verified(recipe, tmp_path):
    recipe.write_text(RECIPE + "  - quantize\n", encoding="utf-8")
    assert run("run", recipe).exit_code == 0
    models = ("runs/small@dense", "small=runs/small@shrink", "int8=runs/small")
    timed = run("bench", *models, "--input", "1x1x8x8", "--json",
                "bench.json")  # fmt: skip
    assert timed.exit_code in (0, 1), timed.output
    assert {row["name"] for row in json.loads(Path("bench.json").read_text())["rows"]} == {"dense", "small", "int8"}
    assert run("verify", "runs/small", "--input", "2x1x8x8").exit_code == 0
    unknown = run("bench", "runs/small@nowhere", "runs/small", "--input", "1x1x8x8")
    assert unknown.exit_code == 2
    assert "has no stage 'nowhere'" in unknown.stderr.replace("\n", " ")


# ------------------------------------------------------------------------------------------------- tired and hostile


def test_what_user_code_prints_is_not_in_the_json(recipe, tmp_path):
    module = recipe.parent / "here_of_a_test.py"
    module.write_text(module.read_text() + "print('importing')\n_said = accuracy\ndef accuracy(model):\n"
                      "    print('evaluating')\n    return _said(model)\n", encoding="utf-8")  # fmt: skip
    sys.modules.pop("here_of_a_test", None)
    assert json.loads(run("plan", recipe, "--json", "-").stdout)["stages"]
    assert json.loads(run("run", recipe, "--json", "-").stdout)["ok"]
    sys.modules.pop("here_of_a_test", None)


def test_user_code_that_raises_is_exit_code_3_or_2_without_a_traceback(recipe):
    recipe.write_text(RECIPE.replace("evaluate: here_of_a_test:accuracy", "evaluate: os:getenv"), encoding="utf-8")
    failed = run("run", recipe)
    assert failed.exit_code == 3
    assert "stage 0 (dense) failed: TypeError" in failed.stderr
    (recipe.parent / "raises_of_a_test.py").write_text("raise RuntimeError('no data here')", encoding="utf-8")
    recipe.write_text(RECIPE.replace("train: here_of_a_test", "train: raises_of_a_test"), encoding="utf-8")
    assert run("run", recipe).exit_code == 2


def test_names_that_look_like_markup_or_commands_to_a_terminal_are_shown(tmp_path):
    from safetensors.torch import save_file

    folder = tmp_path / "[bold]"
    folder.mkdir()
    odd = {"[/red]": torch.zeros(2), "[blue]x": torch.ones(2), "\x1b[2Jgone": torch.ones(1)}
    save_file(odd, folder / "odd.safetensors")
    looked = run("inspect", folder / "odd.safetensors")
    assert looked.exit_code == 0, looked.output
    assert all(word in looked.stdout for word in ("[bold]", "[/red]", "[blue]x", "\N{REPLACEMENT CHARACTER}[2Jgone"))
    assert "\x1b" not in looked.stdout
    nowhere = run("inspect", folder / "[/a].pth")
    assert nowhere.exit_code == 2
    assert "[/a].pth" in "".join(nowhere.stderr.split()).replace("│", "")


def test_tensors_that_are_larger_than_their_file_cost_no_memory(tmp_path):
    torch.save({"wide": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "wide.pth")
    assert [row["zeros"] for row in facts(tmp_path / "wide.pth")["rows"]] == [""]


def test_tensors_of_every_kind_are_told(tmp_path):
    kinds = {"half": torch.tensor([0.0, 1.0]).half(), "eight": torch.tensor([0.0, 1.0]).to(torch.float8_e4m3fn),
             "complex": torch.tensor([0j, 1j]), "bool": torch.tensor([False, True]), "none": torch.zeros(0),
             "sparse": torch.eye(2).to_sparse()}  # fmt: skip
    torch.save(kinds, tmp_path / "kinds.pth")
    said = {row["name"]: row["zeros"] for row in facts(tmp_path / "kinds.pth")["rows"]}
    assert said == {"half": "50.0%", "eight": "50.0%", "complex": "50.0%", "bool": "50.0%", "none": "", "sparse": ""}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"torchpare_search": 1}\n[1]\n3\n{"score": "x"}\n'),
        ("a.json", "[" * 100_000),
        ("a.json", '{"a": ' + "9" * 5000 + "}"),
        ("a.json", '{"a": "' + "x" * 100_000 + '"}'),
        ("a.yaml", "a: " * 3),
        ("a.yaml", "a: &a [1]\nb: *a\nstages: !!python/object:os.system [x]\n"),
        ("a.safetensors", "\xff" * 8),
    ],
)
def test_hostile_files_are_told_in_a_few_words(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    looked = run("inspect", tmp_path / name)
    assert looked.exit_code in (0, 2), looked.exception
    assert looked.exception is None or isinstance(looked.exception, SystemExit)
    assert len(looked.output) < 5000


def test_a_forged_result_is_refused_without_a_traceback(recipe):
    run("run", recipe)
    path = Path("runs/small/result.json")
    said = json.loads(path.read_text())
    for forged in ({"shrink": {}}, {"shrink": 3}, {"benchmark": {"rows": []}}, {"files": [{}]}, {"history": 1},
                   {"sections": [{"title": "x", "text": "", "blocks": [{"kind": "?"}]}]}, {"says": 7}):  # fmt: skip
        for key in ("metrics", "details"):
            path.write_text(json.dumps({**said, "stages": [{**said["stages"][0], key: forged}]}), encoding="utf-8")
            told = run("report", "runs/small")
            assert told.exit_code in (0, 2), (forged, told.exception)


def test_calibration_batches_are_also_found_in_the_working_directory(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "batches_of_a_test.py").write_text("from tests.recipe.parts import calibration\n", encoding="utf-8")
    run("run", recipe)
    proved = run("verify", "runs/small", "--input", "2x1x8x8", "--calibration", "batches_of_a_test:calibration")
    assert proved.exit_code == 0, proved.output
    wrong = run("verify", "runs/small", "--input", "2x1x8x8", "--calibration", "batches_of_a_test:nothing")
    assert wrong.exit_code == 2
