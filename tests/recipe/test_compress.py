"""`torchpare.compress`: the same from Python, on objects that are there."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from torch import nn

import torchpare
from tests.recipe import parts
from torchpare.errors import ConfigError
from torchpare.search.fingerprint import of_model

STAGES = [
    {"prune": {"config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}},
    "shrink",
    {"finetune": {"epochs": 1, "optimizer": {"name": "Adam", "lr": 2e-3}, "budget": "accuracy >= dense - 1"}},
]


@pytest.fixture
def model():
    torch.manual_seed(1)
    return parts.net()


def test_ten_lines_make_a_small_model_and_leave_the_given_one_as_it_was(model):
    before = of_model(model)
    model.train()
    result = torchpare.compress(model, STAGES, train=parts.train(), evaluate=parts.accuracy)
    assert of_model(model) == before
    assert model.training
    assert result.ok
    assert result.model is not model
    assert result.model.conv1.out_channels == 4
    assert result.folder.is_dir()
    assert result.stages[-1].metrics["accuracy"] == parts.accuracy(result.model.eval())


def test_a_result_shows_its_table_in_a_terminal_and_in_a_notebook(model):
    result = torchpare.compress(model, STAGES[:2], train=parts.train(), evaluate=parts.accuracy)
    text, page = repr(result), result._repr_html_()
    for word in ("dense", "prune", "shrink", "accuracy", "parameters", "all stages are done"):
        assert word in text
        assert word in page
    assert page.count("<tr>") == 4
    json.dumps(result.to_dict(), allow_nan=False)


def test_names_are_escaped_in_a_notebook(model):
    def evaluate(net: nn.Module) -> dict[str, float]:
        return {"<script>alert(1)</script>": parts.accuracy(net)}

    result = torchpare.compress(model, STAGES[:1], train=parts.train(), evaluate=evaluate)
    assert "<script>" not in result._repr_html_()


def test_a_second_call_goes_on_in_its_folder(model, tmp_path):
    first = torchpare.compress(model, STAGES, train=parts.train(), evaluate=parts.accuracy, folder=tmp_path / "r")
    stamp = (tmp_path / "r" / "03-finetune" / "stage.json").stat().st_mtime_ns
    again = torchpare.compress(copy.deepcopy(model), STAGES, train=parts.train(), evaluate=parts.accuracy,
                               folder=tmp_path / "r")  # fmt: skip
    assert (tmp_path / "r" / "03-finetune" / "stage.json").stat().st_mtime_ns == stamp
    assert of_model(again.model) == of_model(first.model)
    with torch.no_grad():
        model.conv1.weight.mul_(2)
    torchpare.compress(model, STAGES, train=parts.train(), evaluate=parts.accuracy, folder=tmp_path / "r")
    assert (tmp_path / "r" / "03-finetune" / "stage.json").stat().st_mtime_ns != stamp


def test_a_file_a_dict_and_a_list_say_the_same(model, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "stages:\n  - prune:\n      config_list: [{sparsity: 0.5, op_types: [Conv2d]}]\n  - shrink\n", encoding="utf-8"
    )
    given = {"train": parts.train(), "evaluate": parts.accuracy}
    results = [torchpare.compress(model, said, **given) for said in (tmp_path / "r.yaml", {"stages": STAGES[:2]},
                                                                    STAGES[:2])]  # fmt: skip
    assert len({of_model(result.model) for result in results}) == 1


def test_a_loss_of_one_s_own_is_used(model):
    asked = []

    def loss(output, batch):
        asked.append(len(batch))
        return nn.functional.cross_entropy(output, batch[1])

    torchpare.compress(model, STAGES[2:], train=parts.train(), evaluate=parts.accuracy, loss=loss)
    assert asked == [2] * (1 + len(parts.train()))  # one before any stage runs


def test_calibration_batches_of_one_s_own_are_used(model):
    seen = []

    class Batches:
        def __iter__(self):
            for batch in parts.calibration():
                seen.append(len(batch))
                yield batch

    result = torchpare.compress(model, [{"quantize": {"calibration_batches": 1}}], calibration=Batches(),
                                example_inputs=parts.calibration()[0][:2])  # fmt: skip
    assert seen == [32]
    assert result.ok


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train": iter([])}, "gone through again and again"),
        ({"train": parts.train(), "evaluate": 3}, "evaluate is a int, which cannot be called"),
        ({"train": parts.train(), "evaluate": lambda _: "good"}, "it returns a number, or a dict of numbers by name"),
    ],
)
def test_what_cannot_be_used_is_named(model, given, expected):
    with pytest.raises(Exception, match=re.escape(expected)) as caught:
        torchpare.compress(model, STAGES, **given)
    assert isinstance(caught.value, torchpare.errors.TorchpareError)


def test_no_model_no_run():
    with pytest.raises(ConfigError, match=r"not a torch\.nn\.Module"):
        torchpare.compress("resnet18", STAGES)  # type: ignore[arg-type]


def test_a_notebook_tells_why_a_run_stopped(tmp_path):
    from torchpare.recipe import Result, StageResult

    dense = StageResult(0, "dense", "dense", 1.0, {"top[1]": 0.5}, {}, {})
    bench = StageResult(1, "benchmark", "benchmark", 1.0, {"top[1]": 0.5}, {}, {}, failure="it is <not> faster")
    result = Result("r", tmp_path, (dense, bench), 1, None, {})
    assert "it is &lt;not&gt; faster</td>" in result._repr_html_()
    assert "it is <not> faster" in repr(result)
    assert "top[1]" in repr(result)  # and is no markup
