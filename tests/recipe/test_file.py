"""A recipe file: what is wrong in it is told with its line, its key and the nearest right one; nothing in it is run."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import jsonschema
import pytest

from torchpare.errors import ConfigError, FileError
from torchpare.recipe import read_recipe, recipe_of, schema

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "examples").glob("*.yaml"))


def written(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = """
name: digits   # a comment
model: tests.recipe.parts:net
stages:
  - prune:
      config_list: &half
        - {sparsity: 0.5, op_types: [Conv2d]}
      optimizer: {name: SGD, lr: 1e-2, nesterov: no}
  - shrink
  - finetune:
      epochs: 2
      budget: [accuracy >= 0.5, parameters <= 0.9x]
"""


def test_a_file_is_read_as_it_is_meant(tmp_path):
    recipe = read_recipe(written(tmp_path, GOOD))
    prune = recipe.stages[0].prune
    assert prune is not None
    assert [item.kind for item in recipe.stages] == ["prune", "shrink", "finetune"]
    assert prune.config_list == [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
    assert prune.optimizer.arguments["lr"] == 0.01  # YAML 1.2: a number, not a word
    assert recipe_of(recipe.model_dump(exclude_defaults=True)) == recipe


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: digits", "nam: digits", ":2: nam: there is no key 'nam' here; did you mean 'name'?"),
        ("epochs: 2", "epoch: 2", ":11: stages[2].finetune.epoch: there is no key 'epoch' here; did you mean 'epochs'"),
        ("epochs: 2", "epochs: 0", ":11: stages[2].finetune.epochs: Input should be greater than or equal to 1"),
        ("config_list:", "configlist:", ":6: stages[0].prune.configlist: there is no key 'configlist' here; did"),
        ("  - shrink", "  - shrnk", ":9: stages[1].shrnk: there is no key 'shrnk' here; did you mean 'shrink'?"),
        ("accuracy >= 0.5", "accuracy => 0.5", ":12: stages[2].finetune.budget[0]: the budget 'accuracy => 0.5'"),
        ("  - shrink", "  - {shrink: {}, export: {}}", ":9: stages[1]: a stage has one kind"),
        ("model: tests.recipe.parts:net", "model: {calable: a:b}", ":3: model.calable: there is no key 'calable' here"),
        ("model: tests.recipe.parts:net", "model: nets", ":3: model.callable: String should match pattern"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(tmp_path, old, new, expected):
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert f"{path}{expected}" in str(caught.value)


def test_all_mistakes_are_told_in_the_order_of_their_lines(tmp_path):
    path = written(tmp_path, GOOD.replace("epochs", "epoch").replace("name: digits", "nam: digits"))
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["2", "11"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stages: [shrink", ":1:16: not YAML"),
        ("a: 1\na: 2\n", ':2:1: not YAML: found duplicate key "a"'),
        ("stages: \x00", "not YAML"),
        ("- &a [*a]", "deeper than 50 levels"),
        ("", "is empty; a recipe has 'stages'"),
        ("3", "is a int; it is a mapping with 'stages'"),
        ("? [1]\n: 2", None),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, expected):
    with pytest.raises((FileError, ConfigError)) as caught:
        read_recipe(written(tmp_path, text))
    assert expected is None or expected in str(caught.value)


def test_no_object_is_made_of_a_tag(tmp_path):
    mark = tmp_path / "hello"
    path = written(tmp_path, f"name: !!python/object/apply:os.system ['touch {mark}']\nstages: [shrink]\n")
    with pytest.raises(ConfigError, match="name: Input should be a valid string"):
        read_recipe(path)
    assert not mark.exists()


def test_anchors_that_unfold_beyond_measure_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    start = time.perf_counter()
    with pytest.raises(FileError, match="unfolds to more than 100,000 values"):
        read_recipe(written(tmp_path, "\n".join(lines)))
    assert time.perf_counter() - start < 30


def test_large_and_missing_files_are_named(tmp_path):
    with pytest.raises(FileError, match="2,000,000 bytes are no recipe"):
        read_recipe(written(tmp_path, "#" * 2_000_000))
    with pytest.raises(FileError, match="cannot be read"):
        read_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_schema_admits_the_examples(path):
    from ruamel.yaml import YAML

    jsonschema.validate(YAML(typ="safe", pure=True).load(path), schema())


@pytest.mark.parametrize(
    "bad",
    [
        {"stages": []},
        {"stages": ["srink"]},
        {"stages": [{"prune": {"config_list": []}}]},
        {"stages": [{"finetune": {"epoch": 3}}]},
        {"stages": [{"shrink": {}, "export": {}}]},
        {"stages": ["shrink"], "sed": 3},
        {"stages": [{"export": {"formats": ["docx"]}}]},
    ],
)
def test_the_schema_and_the_reader_refuse_the_same(bad):
    jsonschema.Draft202012Validator.check_schema(schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema())
    with pytest.raises(ConfigError):
        recipe_of(bad)


@pytest.mark.parametrize("good", [{"stages": ["shrink"]}, {"stages": [{"shrink": None}]},
                                  {"stages": [{"export": {"budget": "size <= 1 MB"}}]}])  # fmt: skip
def test_the_schema_and_the_reader_admit_the_same(good):
    jsonschema.validate(good, schema())
    recipe_of(good)


def test_the_schema_that_editors_are_given_is_up_to_date():
    assert json.loads((ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8")) == schema()


@pytest.mark.parametrize("page", ["README.md", "docs/recipe.md"])
def test_recipes_on_pages_are_recipes(tmp_path, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        read_recipe(written(tmp_path, block))
