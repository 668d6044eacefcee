"""All of it in one call, on models of every kind, which are afterwards as they were."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.parameter import UninitializedParameter

from tests.insight.nets import Counting, Idle, Replacing, state_of
from tests.search.nets import Chain, example, likelihood, trained
from tests.support.vision import torchvision_models
from torchpare.errors import CaptureError, ConfigError
from torchpare.insight import study
from torchpare.pruning import L1FilterPruner
from torchpare.pruning.groups import is_incomplete
from torchpare.quantization import QAT_Quantizer


def same(before, after) -> bool:
    values, *rest = zip(before, after, strict=True)
    tensors = values[0].keys() == values[1].keys() and all(torch.equal(values[0][n], values[1][n]) for n in values[0])
    modes, random, hooks = rest
    return tensors and modes[0] == modes[1] and torch.equal(*random) and hooks[0] == hooks[1]


def bert():
    torchvision_models()  # has to be imported before transformers is
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=50)
    return BertForSequenceClassification(config)


TOKENS = {"input_ids": torch.randint(0, 50, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
PICTURES = torch.rand(2, 3, 48, 48)


@pytest.mark.parametrize(
    ("make", "example_inputs", "data"),
    [(lambda: torchvision_models().resnet18(weights=None), PICTURES, [(PICTURES, torch.zeros(2))] * 2),
     (bert, TOKENS, [{**TOKENS, "labels": torch.zeros(2)}]),
     (Counting, torch.rand(2, 3), None),
     (Replacing, torch.rand(2, 3), None),
     (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.rand(2, 4, 8), None),
     (lambda: nn.LSTM(3, 4), torch.rand(5, 2, 3), None)],
    ids=["resnet", "bert", "writes into buffers", "replaces buffers", "attention", "lstm"],
)  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_any_model_that_runs_is_studied_and_left_as_it_was(make, example_inputs, data, training):
    model = make().train(training)
    before = state_of(model)
    found = study(model, example_inputs, data, runs=2, warmup=0)
    assert same(before, state_of(model))
    assert found.costs.params == sum(parameter.numel() for parameter in model.parameters())
    assert found.activations.ranges
    assert set(found.skipped) <= {"sensitivity", "coupling"}
    assert found.activations.own_data == (data is not None)
    assert all(parameter.grad is None for parameter in model.parameters())


def masked():
    model = trained(Chain)
    L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["wide"]}]).compress()  # covers its group at the first batch
    return model


def fake_quantized():
    model = trained(Chain)
    QAT_Quantizer(model, [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["Conv2d"]}]).compress()
    return model


@pytest.mark.parametrize("make", [masked, fake_quantized])
def test_a_model_under_work_is_left_as_it_was_too(make):
    model = make()
    before = state_of(model)
    found = study(model, example(), runs=2, warmup=0)
    assert same(before, state_of(model))
    if make is masked:
        channels = {each.name: each for each in found.activations.channels}
        assert len(channels["norm"].dead) == 8  # the mask covers what follows the layer, as in use
        assert is_incomplete(model)


def test_a_lazy_model_stays_lazy():
    model = nn.Sequential(nn.LazyLinear(3), nn.ReLU())
    assert study(model, torch.rand(2, 5), runs=2, warmup=0).costs.params == 18
    assert isinstance(model[0].weight, UninitializedParameter)


@pytest.fixture(scope="module")
def whole():
    points = [("dense", 0.004, 0.9), ("small", 0.002, 0.89)]
    return study(trained(Chain), example(), [example()], likelihood, points=points, runs=3, warmup=0, name="A <chain>")


def test_everything_that_can_be_worked_out_is_there(whole):
    assert whole.skipped == {}
    assert whole.name == "A <chain>"
    assert whole.kind == "Chain"
    assert whole.sensitivity.sparsities == (0.25, 0.5, 0.75)
    assert {"stem", "inner"} in [set(each) for each in whole.coupling.sets]
    assert [section.title for section in whole.sections()] == [
        "Costs by layer", "Accuracy and latency", "Sensitivity", "Channels that say nothing", "Activation ranges",
        "Quantization error", "Layers that share channels",
    ]  # fmt: skip


def test_the_page_the_file_and_the_tables_tell_the_same(whole, tmp_path):
    whole.write_html(tmp_path / "insight.html")
    whole.write_json(tmp_path / "insight.json")
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(whole)
    printed, page = console.export_text(), (tmp_path / "insight.html").read_text(encoding="utf-8")
    told = json.loads((tmp_path / "insight.json").read_text(encoding="utf-8"))
    assert told["sensitivity"]["rows"]["wide"]["0.5"] == whole.sensitivity.rows["wide"][0.5]
    for text in (printed, page):
        assert f"{whole.sensitivity.rows['wide'][0.5]:.4g}" in text
        assert f"{whole.rounding.worst(4)[0].weight_channel[4]:.1f}" in text
    assert "A &lt;chain&gt;" in page


def test_a_notebook_shows_the_page_in_a_frame(whole):
    shown = whole._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "&lt;svg" in shown


def test_what_is_missing_is_said_with_the_reason():
    found = study(Idle(), torch.rand(1, 1, 2, 2), runs=2, warmup=0)
    assert found.sensitivity is None
    assert found.skipped["sensitivity"].startswith("no evaluate was given")
    assert found.sections()[-1].title == "What is missing, and why"


def test_an_evaluation_that_fails_costs_the_sensitivities_alone():
    def broken(model):
        raise RuntimeError("no data here")

    found = study(Idle(), torch.rand(1, 1, 2, 2), evaluate=broken, runs=2, warmup=0)
    assert found.skipped == {"sensitivity": "no data here"}
    assert found.costs is not None


def test_no_rounding_is_looked_for_where_nothing_is_rounded():
    found = study(nn.ReLU(), torch.rand(1, 2), runs=2, warmup=0)
    assert found.rounding.layers == ()
    found.page().to_dict()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"example_inputs": torch.rand(1, 1, 2, 2, 2, 2)}, "does not run on example_inputs"),
     ({"evaluate": 3}, "evaluate is a int"), ({"bits": (1,)}, "bits is"), ({"runs": 1}, "runs is 1"),
     ({"data": iter([])}, "only once"), ({"sparsities": [2.0], "evaluate": lambda m: 1.0}, "between 0 and 1"),
     ({"points": [("a", -1.0, 0.5)]}, "seconds are above 0")],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_refused_and_the_model_is_untouched(given, message):
    model = Idle().train()
    before = state_of(model)
    with pytest.raises((ConfigError, CaptureError), match=message):
        study(model, **{"example_inputs": torch.ones(1, 1, 2, 2), **given})
    assert same(before, state_of(model))
