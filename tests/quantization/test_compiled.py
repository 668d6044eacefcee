"""What a compiler makes of fake quantization: as few graphs and as little work for each element as can be."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

from torchpare.attach import FakeQuantize
from torchpare.config import QuantSpec
from torchpare.errors import QuantizationError
from torchpare.numerics.affine import Grid
from torchpare.quantization import LsqPlusQuantizer, LsqQuantizer, PACTQuantizer, QAT_Quantizer

EVERYTHING = [{"quant_types": ["weight", "input", "output"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]
IMAGES = torch.randn(4, 3, 6, 6)


def net() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.slow
def test_one_graph_serves_the_first_pass_and_all_others():
    torch._dynamo.reset()
    model = net()
    QAT_Quantizer(model, EVERYTHING, dummy_input=IMAGES).compress()
    compiled = torch.compile(model.train(), backend="aot_eager", fullgraph=True)
    counters.clear()
    for _ in range(3):
        compiled(IMAGES).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert [int(layer.output_quantizer.seen) for layer in (model[1], model[4])] == [3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_what_is_one_number_is_not_worked_out_for_each_element(order):
    torch._dynamo.reset()
    quantizer = FakeQuantize(QuantSpec(Grid(8), observer="moving_average"), "x").train()

    def observed(x):
        quantizer.observe(x)
        return quantizer(x)

    x = torch.randn(4, 16, 10, 10).to(memory_format=order)
    _, (code,) = run_and_get_code(torch.compile(observed), x)
    loops = [loop.split("    }\n    {\n")[0] for loop in code.split("for(int64_t")[1:]]
    assert len(loops) == 2  # one looks for the ends, one rounds
    assert all("loadu" in loop for loop in loops)
    assert "std::pow" in code
    assert not any(re.search(r"std::(pow|nearbyint)", loop) for loop in loops)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["the mode changes", "step"])
def test_nan_met_by_compiled_code_is_named_where_it_is_asked_next(asked):
    torch._dynamo.reset()
    model = net()
    quantizer = QAT_Quantizer(model, EVERYTHING)
    quantizer.compress()
    compiled = torch.compile(model.train(), backend="aot_eager", fullgraph=True)
    compiled(IMAGES)
    quantizer.step()
    compiled(torch.full_like(IMAGES, torch.inf))
    with pytest.raises(QuantizationError, match=r"0\.(input|output) holds NaN or infinite values"):
        quantizer.step() if asked == "step" else model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LsqQuantizer, LsqPlusQuantizer, PACTQuantizer])
@pytest.mark.parametrize("batches", [0, 1])
def test_grids_that_learn_name_nan_too_from_which_they_started_or_were_led_there(kind, batches):
    torch._dynamo.reset()
    model = net()
    asked = {"quant_types": ["output"], "quant_bits": 8, "op_types": ["ReLU"]}
    quantizer = kind(model, [asked])
    quantizer.compress()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    compiled = torch.compile(model.train(), backend="eager")
    for at in range(batches + 1):
        compiled(IMAGES if at < batches else torch.full_like(IMAGES, torch.nan)).sum().backward()
        optimizer.step()
    with pytest.raises(QuantizationError, match=r"2\.output holds NaN"):
        quantizer.step()


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_a_weight_is_on_the_grid_of_the_folded_one(granularity, scheme, generator):
    """Whether the factor of the norm is multiplied in and divided out again, or left out where that is the same."""
    model = net()
    model[1].running_var.uniform_(0.1, 3, generator=generator)
    model[1].weight.data.copy_(torch.tensor([0.5, -2.0, 3.0, 0.0]))
    entry = {"quant_types": ["weight"], "quant_bits": 4, "op_types": ["Conv2d"], "granularity": granularity}
    QAT_Quantizer(model, [{**entry, "quant_scheme": scheme}], dummy_input=IMAGES).compress()
    factor = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    factor = torch.where(factor == 0, 1.0, factor).reshape(-1, 1, 1, 1)
    folded = model[0].weight * factor
    steps = folded / model[0].scale
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    dense = model[0].old_weight * factor
    assert bool(((dense - folded).abs() <= model[0].scale * 0.5001).all())
