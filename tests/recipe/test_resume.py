"""What a run that is started again takes over, and what it does not: changed code, data, names, half-deleted stages."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import torchpare
from tests.recipe import parts
from torchpare.errors import ConfigError, FileError, RecipeError
from torchpare.recipe import Given, kept, recipe_of, run_recipe
from torchpare.recipe.named import importing_from
from torchpare.recipe.preview import preview
from torchpare.recipe.reopen import model_of_run
from torchpare.search.fingerprint import of_model

HALF = [{"sparsity": 0.5, "op_types": ["Conv2d"], "op_names": ["conv1"]}]
PRUNE = {"prune": {"config_list": HALF}}
BASE = {"model": "tests.recipe.parts:net", "data": {"train": "tests.recipe.parts:train"}}
MODULE = """
import torch
from tests.recipe import parts

COUNT = {count}

def net():
    return parts.net({width})

def train():
    return parts.train(COUNT)

def accuracy(model):
    return parts.accuracy(model)
"""


def recipe(*stages, **more):
    return recipe_of({**BASE, "stages": list(stages), **more})


def stamps(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/stage.json")}


def beside(folder, count=64, width=4):
    """A recipe beside the module that it names."""
    folder.mkdir(exist_ok=True)
    (folder / "own_parts_of_a_test.py").write_text(MODULE.format(count=count, width=width), encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        "model: own_parts_of_a_test:net\ndata: {train: own_parts_of_a_test:train}\n"
        "evaluate: own_parts_of_a_test:accuracy\nstages:\n"
        "  - prune: {config_list: [{sparsity: 0.5, op_types: [Conv2d], op_names: [conv1]}]}\n", encoding="utf-8",
    )  # fmt: skip
    return torchpare.recipe.read_recipe(folder / "recipe.yaml"), Given(folder=folder)


@pytest.fixture
def fresh_imports(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield lambda: sys.modules.pop("own_parts_of_a_test", None)
    sys.modules.pop("own_parts_of_a_test", None)


def test_a_changed_constant_of_the_data_runs_anew(tmp_path, fresh_imports):
    run_recipe(beside(tmp_path / "own")[0], tmp_path / "r", Given(folder=tmp_path / "own"))
    before = stamps(tmp_path / "r")
    fresh_imports()
    said, given = beside(tmp_path / "own")
    run_recipe(said, tmp_path / "r", given)
    assert stamps(tmp_path / "r") == before
    fresh_imports()
    said, given = beside(tmp_path / "own", count=96)
    assert not preview(said, tmp_path / "r", given).stages[0].done
    run_recipe(said, tmp_path / "r", given)
    assert all(stamps(tmp_path / "r")[name] != before[name] for name in before)


def test_given_batches_of_other_values_run_anew(tmp_path):
    pictures, labels = parts.digits()
    first, other = [(pictures[:32], labels[:32])], [(pictures[32:64], labels[32:64])]
    stage = [{"finetune": {"optimizer": {"name": "SGD", "lr": 0.1}}}]
    model = parts.net(4)
    one = torchpare.compress(model, stage, train=first, folder=tmp_path / "r")
    same = torchpare.compress(model, stage, train=list(first), folder=tmp_path / "r")
    assert same.to_dict() == one.to_dict()
    two = torchpare.compress(model, stage, train=other, folder=tmp_path / "r")
    assert of_model(two.model) != of_model(one.model)


def test_two_recipes_of_one_process_have_their_own_modules(tmp_path, fresh_imports):
    for name, width in (("one", 4), ("two", 6), ("one", 4)):
        said, given = beside(tmp_path / name, width=width)
        result = run_recipe(said, tmp_path / "runs" / name, given)
        assert result.model.conv1.out_channels == width
    assert model_of_run(str(tmp_path / "runs" / "one")).conv1.out_channels == 4
    assert model_of_run(str(tmp_path / "runs" / "two")).conv1.out_channels == 6


def test_what_lies_beside_the_recipe_goes_before_the_working_directory(tmp_path, monkeypatch, fresh_imports):
    beside(tmp_path / "here", width=2)
    said, _ = beside(tmp_path / "there", width=4)
    monkeypatch.chdir(tmp_path / "here")
    for name, width in (("here", 2), ("there", 4)):
        torch.manual_seed(width)
        torch.save(parts.net(width).state_dict(), tmp_path / name / "w.pth")
    said = said.model_copy(update={"checkpoint": "w.pth"})
    assert run_recipe(said, tmp_path / "r", Given(folder=tmp_path / "there")).model.conv1.out_channels == 4
    with importing_from(tmp_path / "there"):
        assert sys.modules.get("own_parts_of_a_test") is not None


def test_compress_takes_a_file_whose_modules_lie_beside_it(tmp_path, fresh_imports):
    beside(tmp_path / "own folder")
    result = torchpare.compress(parts.net(4), tmp_path / "own folder" / "recipe.yaml", folder=tmp_path / "r")
    assert result.ok
    assert str(tmp_path / "own folder") not in sys.path


@pytest.mark.parametrize("death", ["stage.json", "started.json", "model.safetensors"])
def test_a_stage_that_was_half_deleted_is_not_mixed_with_the_next(tmp_path, monkeypatch, death):
    folder = tmp_path / "r"
    run_recipe(recipe({"finetune": {"name": "first", "optimizer": {"name": "SGD", "lr": 0.1}}}), folder)
    masked = recipe({"prune": {"name": "first", "config_list": HALF}})
    expected = run_recipe(masked, tmp_path / "whole")

    class DiesError(BaseException):
        pass

    unlink = kept.Path.unlink

    def dying(self, missing_ok=False):
        if self.name == death and self.parent.name == "01-first":
            raise DiesError
        unlink(self, missing_ok=missing_ok)

    def dying_tree(path, *_args, **_kwargs):
        raise DiesError(path)

    with monkeypatch.context() as patched:
        patched.setattr(kept.Path, "unlink", dying)
        patched.setattr(kept.shutil, "rmtree", dying_tree)
        with pytest.raises(DiesError):
            run_recipe(masked, folder)
    result = run_recipe(masked, folder)
    assert of_model(result.model) == of_model(expected.model)
    assert sorted(path.name for path in (folder / "01-first").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole" / "01-first").iterdir()
    )


def batches_of(kind):
    data = TensorDataset(*(each[:128] for each in parts.digits()))
    generator = torch.Generator().manual_seed(9)
    if kind == "loader":
        return DataLoader(data, 16, shuffle=True, generator=generator)
    return DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data, generator=generator), 16, drop_last=False))


@pytest.mark.parametrize("kind", ["loader", "sampler of a batch sampler"])
def test_what_calibrates_does_not_depend_on_what_was_drawn_before(tmp_path, kind):
    stages = [{"finetune": {"epochs": 2, "optimizer": {"name": "SGD", "lr": 0.1}}},
              {"quantize": {"calibration_batches": 1}}]  # fmt: skip
    torch.manual_seed(0)
    model = parts.net(4)
    whole = torchpare.compress(model, stages, train=batches_of(kind), folder=tmp_path / "whole")
    torchpare.compress(model, stages[:1], train=batches_of(kind), folder=tmp_path / "cut")
    rest = torchpare.compress(model, stages, train=batches_of(kind), folder=tmp_path / "cut")
    assert of_model(rest.model) == of_model(whole.model)


def test_a_stage_that_is_called_otherwise_does_not_run_again(tmp_path):
    run_recipe(recipe(PRUNE, "shrink"), tmp_path / "r")
    before = stamps(tmp_path / "r")
    called = recipe({"prune": {"name": "half", "config_list": HALF}}, "shrink")
    assert [stage.done for stage in preview(called, tmp_path / "r").stages] == [True, True]
    result = run_recipe(called, tmp_path / "r")
    assert [stage.name for stage in result.stages] == ["dense", "half", "shrink"]
    assert stamps(tmp_path / "r")["02-shrink"] == before["02-shrink"]
    assert sorted(path.name for path in (tmp_path / "r").glob("0*")) == ["00-dense", "01-half", "02-shrink"]
    assert model_of_run(str(tmp_path / "r") + "@half").conv1.weight.shape == (8, 1, 3, 3)
    assert run_recipe(called, tmp_path / "r").to_dict() == result.to_dict()
    (tmp_path / "r" / "01-mine").mkdir()
    with pytest.raises(FileError, match="01-mine is no stage of a run, and is in the way"):
        run_recipe(recipe({"prune": {"name": "mine", "config_list": HALF}}, "shrink"), tmp_path / "r")


def test_stages_have_names_of_their_own(tmp_path):
    said = recipe({"finetune": {"name": "shrink-2"}}, PRUNE, "shrink", PRUNE, "shrink")
    names = kept.stage_names(said)
    assert len(set(names)) == len(names)
    assert names[2] == "shrink"
    for name in ("dense", "3"):
        with pytest.raises(ConfigError, match="give it another name"):
            recipe({"finetune": {"name": name}})
    with pytest.raises(ConfigError, match="name"):
        recipe("finetune", name="..")


# ------------------------------------------------------------------------------------------------- what goes wrong


def fails(_model):
    raise ValueError("the test set is gone")


def test_what_the_user_s_code_raises_is_told_with_its_line(tmp_path):
    with pytest.raises(RecipeError, match=r"stage 0 \(dense\) failed: ValueError: the test set is gone \(.*test_r"):
        run_recipe(recipe("finetune", evaluate="tests.recipe.test_resume:fails"), tmp_path / "r")

    def loss(output, batch):
        raise RuntimeError("shapes differ")

    with pytest.raises(ConfigError, match=r"stages\[1\].finetune: the first training batch has no loss: RuntimeError"):
        torchpare.compress(parts.net(4), [PRUNE, "finetune"], train=parts.train(64), loss=loss, folder=tmp_path / "s")
    assert not (tmp_path / "s" / "01-prune").exists()

    def later(output, batch):
        if output.requires_grad:
            raise RuntimeError("out of memory")
        return output.sum()

    with pytest.raises(RecipeError, match=r"stage 1 \(finetune\) failed: RuntimeError: out of memory"):
        torchpare.compress(parts.net(4), ["finetune"], train=parts.train(64), loss=later, folder=tmp_path / "s")
    assert (tmp_path / "s" / "00-dense" / "stage.json").exists()


def test_data_that_raises_is_told(tmp_path):
    class Broken(list):
        def __iter__(self):
            raise OSError("the disk is gone")

    with pytest.raises(ConfigError, match="the training data gives no batch: OSError: the disk is gone"):
        torchpare.compress(parts.net(4), ["finetune"], train=Broken([1]), folder=tmp_path / "r")


def test_a_module_that_does_not_import_is_told(tmp_path, fresh_imports):
    said, given = beside(tmp_path / "own")
    (tmp_path / "own" / "own_parts_of_a_test.py").write_text("import torch\nx = 1 / 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot be found: ZeroDivisionError.*own_parts_of_a_test.py:2"):
        run_recipe(said, tmp_path / "r", given)
    with pytest.raises(ConfigError, match=r"has no attribute 'net' \(.*token\.py\)"):
        run_recipe(recipe("finetune", model="token:net"), tmp_path / "r")


def test_a_full_disk_stops_the_run_and_it_goes_on_when_there_is_room(tmp_path, monkeypatch):
    from torchpare.recipe.result import StageResult

    def full(self, path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(StageResult, "write", full)
        with pytest.raises(RecipeError, match="No space left on device"):
            run_recipe(recipe(PRUNE), tmp_path / "r")
    assert run_recipe(recipe(PRUNE), tmp_path / "r").ok


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "r" / "lock").mkdir(parents=True)
    with pytest.raises(FileError, match="cannot write in"):
        run_recipe(recipe(PRUNE), tmp_path / "r")


@pytest.mark.parametrize(
    ("stages", "more", "expected"),
    [
        ([PRUNE, {"prune": {"pruner": "plan", "config_list": [{"sparsity": 0.5}]}}], {}, "masks that were not cut out"),
        ([{"finetune": {"distil": {"teacher": "tests.recipe.parts:nothing"}}}], {}, "cannot be found"),
        ([{"finetune": {"distil": {"terms": [{"hidden_states": {"layers": ["conv9"]}}]}}}], {}, "conv9"),
        ([{"quantize": {"distil": {}}}], {}, "give the stage epochs"),
        ([{"quantize": {"epochs": 1}}], {"data": {}, "example_inputs": "2x1x8x8"}, "no training data"),
        (["study"], {"data": {}, "example_inputs": "2x1x8x8"}, "looks at data"),
        ([{"study": {"sensitivity": True}}], {}, "give the recipe 'evaluate'"),
        ([{"export": {"formats": ["onnx", "no library"]}}], {}, "Input should be"),
        ([{"finetune": {"budget": "acuracy >= 0.9"}}], {"evaluate": "tests.recipe.parts:accuracy"},
         "which nothing measures; did you mean 'accuracy'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_before_any_stage_runs(tmp_path, stages, more, expected):
    with pytest.raises((ConfigError, FileError), match=expected):
        run_recipe(recipe(*stages, **more), tmp_path / "r")
    assert not (tmp_path / "r" / "01-finetune").exists()


def test_a_runtime_that_is_not_installed_is_told_before_any_stage_runs(tmp_path, monkeypatch):
    from torchpare.recipe import check

    monkeypatch.setitem(check._LIBRARIES, "openvino", ("no_such_library", "openvino"))
    with pytest.raises(ConfigError, match=r"stages\[0\].export: openvino needs no_such_library.*torchpare\[openvino\]"):
        run_recipe(recipe({"export": {"formats": ["openvino"]}}), tmp_path / "r")


class Weighted(nn.Module):
    """Is called by keyword, and wants no target."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x, weight):
        return self.linear(x * weight)


@pytest.mark.parametrize("form", ["dict", "dict and target"])
def test_inputs_by_name_need_no_labels_in_the_model(tmp_path, form):
    torch.manual_seed(1)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    inputs = {"x": x, "weight": torch.ones(8, 1)}
    batches = [{**inputs, "target": y}] if form == "dict" else [(inputs, y)]
    stage = {"finetune": {"epochs": 3, "optimizer": {"name": "SGD", "lr": 0.5}, "distil": {}}}
    result = torchpare.compress(Weighted(), [stage, "quantize"], train=batches, folder=tmp_path / "r")
    losses = [epoch["loss"] for epoch in result.stages[1].details["history"]]
    assert losses[-1] < losses[0]


def test_a_copied_run_goes_on_elsewhere(tmp_path):
    run_recipe(recipe(PRUNE), tmp_path / "r")
    moved = shutil.copytree(tmp_path / "r", tmp_path / "moved here")
    before = stamps(moved)
    assert run_recipe(recipe(PRUNE, "shrink"), moved).ok
    assert {name: stamps(moved)[name] for name in before} == before


class Cut(BaseException):
    """As Ctrl-C."""


class MortalBatches:
    """Batches that are cut off after so many."""

    def __init__(self, lives):
        self.loader, self.lives, self.read = parts.train(64), lives, 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            self.read += 1
            if self.read == self.lives:
                raise Cut
            yield batch


@pytest.mark.parametrize(
    "pruner", [pytest.param("AutoCompressPruner", marks=pytest.mark.slow), "SlimPruner", "LinearPruner"]
)
def test_pruners_that_train_go_on_to_the_same_weights(tmp_path, pruner):
    arguments = {
        "AutoCompressPruner": {"num_iterations": 2, "start_temperature": 40, "cool_down_rate": 0.5,
                               "admm_num_iterations": 1, "admm_epochs_per_iteration": 2},
        "SlimPruner": {"sparsifying_training_epochs": 4, "scale": 0.01},
        "LinearPruner": {"num_iterations": 4, "pruning_algorithm": "random"},
    }[pruner]  # fmt: skip
    kind = "BatchNorm2d" if pruner == "SlimPruner" else "Conv2d"
    stage = {"prune": {"pruner": pruner, "config_list": [{"sparsity": 0.5, "op_types": [kind]}], "arguments": arguments,
                       "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.9}}}  # fmt: skip
    torch.manual_seed(0)
    model = nn.Sequential(parts.net(4), nn.Dropout(0.3))

    def compressed(lives, folder):
        batches = MortalBatches(lives)
        given = {"train": batches, "evaluate": parts.accuracy, "example_inputs": parts.digits()[0][:2]}
        return batches, torchpare.compress(model, [stage], folder=tmp_path / folder, **given)

    batches, whole = compressed(-1, "whole")
    for lives in (batches.read // 2 + 1, batches.read - 1):
        with pytest.raises(Cut):
            compressed(lives, f"cut {lives}")
        again, rest = compressed(-1, f"cut {lives}")
        assert again.read < batches.read
        assert of_model(rest.model) == of_model(whole.model)
