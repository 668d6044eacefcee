"""`torchpare plan` on the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from torchpare.cli import app
from torchpare.errors import ConfigError
from torchpare.recipe.named import build_model, read_inputs

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 4))

def broken():
    raise OSError("no weights")

number = 5
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "mynet_of_a_test.py").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, ["plan", *words])


def test_a_plan_is_shown_and_written(here):
    result = run("mynet_of_a_test:net", "--input", "2x3x8x8", "--json", "plan.json", "--round-to", "4")
    assert result.exit_code == 0, result.output
    assert "0.weight 16x3x3x3 -> 8x3x3x3" in result.output
    told = json.loads((here / "plan.json").read_text(encoding="utf-8"))
    assert [group["after"] for group in told["groups"]] == [8, 4]


def test_a_config_list_comes_from_a_file(here):
    (here / "c.json").write_text(
        '[{"sparsity": 0.75, "structures": ["channels"], "op_names": ["0"]}]', encoding="utf-8"
    )
    result = run("mynet_of_a_test:net", "--input", "2x3x8x8", "--config", "c.json", "--json", "plan.json")
    assert result.exit_code == 0, result.output
    told = json.loads((here / "plan.json").read_text(encoding="utf-8"))
    assert [group["after"] for group in told["groups"]] == [4, 8]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mynet_of_a_test", "--input", "2x3x8x8"], "package.module:callable"),
        (["mynet_of_a_test:nothing", "--input", "2x3x8x8"], "cannot be found"),
        (["mynet_of_a_test:broken", "--input", "2x3x8x8"], "no weights"),
        (["mynet_of_a_test:net", "--input", "2x3xeight"], "not understood"),
        (["mynet_of_a_test:net", "--input", "2x3x8x8", "--structures", "haeds"], "did you mean 'heads'"),
        (["mynet_of_a_test:net", "--input", "2x5x8x8"], "could not run"),
        (["mynet_of_a_test:net", "--input", "2x3x8x8", "--config", "missing.json"], "cannot be read"),
    ],
)
def test_what_is_not_understood_is_said(here, words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_inputs_are_tensors_by_place_or_by_name():
    assert read_inputs(["2x3"]).shape == (2, 3)
    named = read_inputs(["ids=2x5:int64", "mask=2x5:bool"])
    assert {name: str(tensor.dtype) for name, tensor in named.items()} == {"ids": "torch.int64", "mask": "torch.bool"}
    assert len(read_inputs(["2x3", "4:float16"])) == 2
    for words in ([], ["2x3", "a=2x3"], ["0x3"], ["2x3:float99"]):
        with pytest.raises(ConfigError):
            read_inputs(words)


def test_a_number_is_no_model(here):
    with pytest.raises(ConfigError, match="is a int, which cannot be called"):
        build_model("mynet_of_a_test:number")
