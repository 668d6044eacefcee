"""Layers with a weight or spectral norm: no quantizer lies on them, and that is said; without the norm one does."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from torchpare.quantization import ObserverQuantizer, QAT_Quantizer
from torchpare.runtimes import build_program

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ENTRY = {"quant_types": ["input", "weight"], "quant_bits": 8}


def net(norm) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), norm(nn.Conv2d(8, 8, 3)), nn.Flatten(), norm(nn.Linear(128, 4)))


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
@pytest.mark.parametrize("selecting", [{"op_types": ["default"]}, {"op_types": ["Conv2d"]}])
def test_what_types_leave_out_for_its_parametrization_is_said(norm, selecting):
    missed = "'2', '4'" if selecting["op_types"] == ["default"] else "'2'"
    with pytest.warns(UserWarning, match=f"leaves {missed} as they are: a parametrization makes their weights"):
        QAT_Quantizer(net(norm), [ENTRY | selecting])


@pytest.mark.parametrize(
    "more",
    [{"op_names": ["2", "4"], "exclude": True}, {"op_names": ["2", "4"], "quant_types": ["input"], "quant_bits": 8}],
    ids=["excluded", "activations alone"],
)
def test_what_shall_stay_as_it_is_needs_no_word(more):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QAT_Quantizer(net(weight_norm), [ENTRY | {"op_types": ["default"]}, more])


def test_programs_tell_why_such_a_layer_is_float_and_are_int8_without_the_norm():
    model = net(weight_norm)
    with pytest.warns(UserWarning, match="remove_parametrizations"):
        ObserverQuantizer(model, [ENTRY | {"op_types": ["default"]}]).calibrate([X])
    reasons = {place.name: place.reason for place in build_program(model.eval(), X, calibration=[X]).floats}
    assert all("a parametrization makes it at each call" in reasons[name] for name in ("2", "4"))

    model = net(weight_norm)
    for layer in (model[2], model[4]):
        remove_parametrizations(layer, "weight")
    ObserverQuantizer(model, [ENTRY | {"op_types": ["default"]}]).calibrate([X])
    program = build_program(model.eval(), X)
    assert torch.int8 in {value.dtype for name, value in program.module.state_dict().items() if name.startswith("4")}
    with torch.no_grad():
        assert torch.equal(program(X), model(X))
