"""What layers cost: counts against the counter, times against modules that are known to sleep."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

from tests.insight.nets import Slow
from tests.support.nets import Net, TiedNet
from torchpare.errors import CaptureError, ConfigError
from torchpare.insight import layer_costs
from torchpare.insight.costs import REST
from torchpare.report import Page, Section, count_flops_params, render_page


@pytest.fixture(scope="module")
def slow():
    return layer_costs(Slow(), torch.ones(4, 3), runs=5, warmup=1)


def by_name(costs):
    return {layer.name: layer for layer in costs.layers}


def test_counts_are_those_of_the_counter_and_parameters_are_all_of_the_models():
    model, x = Net(), torch.randn(2, 3, 8, 8)
    costs = layer_costs(model, x, runs=2, warmup=0)
    flops, _, rows = count_flops_params(model, x, verbose=False)
    assert costs.macs == flops
    assert {layer.name: layer.macs for layer in costs.layers if layer.macs} == {
        row["name"]: row["flops"] for row in rows
    }
    assert costs.params == sum(parameter.numel() for parameter in model.parameters())
    assert by_name(costs)["norm1"].params == 16
    assert costs.batch == 2


def test_a_weight_with_two_names_counts_once():
    model = TiedNet()
    costs = layer_costs(model, torch.tensor([[1, 2]]), runs=2, warmup=0)
    assert costs.params == sum(parameter.numel() for parameter in model.parameters())
    assert (by_name(costs)["embed"].params, by_name(costs)["decode"].params) == (28, 0)
    assert by_name(costs)["mix"].calls == 2


def test_a_module_is_charged_with_its_own_time_alone(slow):
    inner, rest = by_name(slow)["inner"], by_name(slow)["(Slow)"]
    assert inner.calls == 2
    assert inner.seconds >= 0.008
    assert inner.lower_quartile <= inner.seconds <= inner.upper_quartile
    assert 0.002 <= rest.seconds < inner.seconds  # with what it calls it would be more than that
    assert slow.slowest[0] is inner
    assert sum(slow.share(layer) for layer in slow.layers) == pytest.approx(1)


def test_products_outside_layers_and_layers_that_are_not_called_have_their_lines(slow):
    assert by_name(slow)["(Slow)"].macs == 2 * 2  # its product with a constant
    assert (by_name(slow)["never"].calls, by_name(slow)["never"].params, by_name(slow)["never"].seconds) == (0, 20, 0.0)


def test_what_modules_do_between_layers_is_one_line():
    costs = layer_costs(nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.ReLU()), torch.ones(1, 2), runs=2, warmup=0)
    assert [layer.name for layer in costs.layers] == ["0.0", "1", REST]
    assert by_name(costs)[REST].kind == "2 modules"
    assert [layer.name for layer in costs.in_order] == ["0.0", "1"]


def test_the_whole_pass_is_timed_without_hooks_and_with_them(slow):
    assert slow.whole.runs == slow.watched.runs == 5
    assert slow.whole.median >= 0.010


def test_it_is_told_as_a_table_as_json_and_on_a_page(slow):
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(slow)
    assert "inner" in console.export_text()
    assert json.loads(json.dumps(slow.to_dict()))["macs"] == slow.macs
    page = render_page(Page("x", sections=(Section("y", blocks=slow.blocks()),)))
    assert "Hooks cost time too" in page
    assert page.count("<svg") == 1


def test_a_model_that_is_one_layer_goes_by_its_class():
    costs = layer_costs(nn.Linear(3, 2), torch.ones(1, 3), runs=2, warmup=0)
    assert [(layer.name, layer.macs, layer.params) for layer in costs.layers] == [("(Linear)", 6, 8)]


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ConfigError, match="runs is 1"):
        layer_costs(nn.Linear(3, 2), torch.ones(1, 3), runs=1)
    with pytest.raises(CaptureError, match="Linear does not run on example_inputs"):
        layer_costs(nn.Linear(3, 2), torch.ones(1, 4))
