"""Learnt rounding and corrected biases on layers and data that are not all alike."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from torchpare.errors import QuantizationError
from torchpare.quantization import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    QAT_Quantizer,
    correct_biases,
    round_adaptively,
)

AFFINE = {"quant_scheme": "affine"}
QUANTIZERS = [(NaiveQuantizer, {}), (QAT_Quantizer, {}), (QAT_Quantizer, AFFINE), (LsqQuantizer, {}),
              (ObserverQuantizer, AFFINE), (QAT_Quantizer, {"granularity": "group", "group_size": 4})]  # fmt: skip


def quantized(layer, quantizer=QAT_Quantizer, bits=3, **more):
    model = nn.Sequential(layer)
    quantizer(model, [{"quant_types": ["weight"], "quant_bits": bits, "op_types": ["default"], **more}]).compress()
    return model.eval()


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("quantizer", "more"), QUANTIZERS)
def test_what_was_rounded_is_saved_and_loaded_and_computes_the_same(quantizer, more):
    torch.manual_seed(0)
    layer, x = nn.Linear(16, 8), torch.randn(128, 16, generator=generator())
    model = quantized(copy.deepcopy(layer), quantizer, **more)
    report = round_adaptively(model, [x], iterations=200, generator=generator())
    assert report["0"].moved > 0
    again = quantized(nn.Linear(16, 8), quantizer, **more)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))
    fresh = quantized(layer, quantizer, **more)
    before = fresh(x)
    again.load_state_dict(fresh.state_dict())
    assert torch.equal(again(x), before)


@pytest.mark.parametrize("quantizer", [DoReFaQuantizer, BNNQuantizer])
def test_weights_on_no_grid_are_refused_and_left_alone(quantizer):
    model = quantized(nn.Linear(4, 4), quantizer, 1)
    before = model[0].old_weight.detach().clone()
    with pytest.raises(QuantizationError, match=r"0\.weight is quantized by a formula"):
        round_adaptively(model, [torch.randn(8, 4)], iterations=2)
    assert torch.equal(model[0].old_weight, before)


@pytest.mark.parametrize(
    ("make", "shapes"),
    [(lambda: nn.Linear(8, 8), [(4, 5, 8), (4, 7, 8), (0, 7, 8)]), (lambda: nn.Linear(8, 8), [(8,)] * 9),
     (lambda: nn.Conv1d(3, 8, 3), [(3, 9)] * 9), (lambda: nn.Conv2d(3, 8, 3), [(4, 3, 8, 8), (4, 3, 5, 9)])],
    ids=["texts", "rows", "one at a time", "pictures"],
)  # fmt: skip
def test_samples_of_all_sizes_are_learnt_from_even_without_gradients(make, shapes):
    torch.manual_seed(0)
    layer, batches = make(), [1 + 0.3 * torch.randn(shape, generator=generator()) for shape in shapes]
    model = quantized(copy.deepcopy(layer))
    with torch.no_grad():
        (report,) = round_adaptively(model, batches, iterations=150, generator=generator()).values()
        whole = [(model(x) - layer(x)).double().square() for x in batches]
    total = sum(float(error.sum()) for error in whole) / sum(error.numel() for error in whole)
    assert report.learnt_error == pytest.approx(total, rel=1e-3)
    assert report.learnt_error < report.nearest_error


def test_biases_of_samples_that_are_no_batch_are_corrected_by_channel():
    torch.manual_seed(0)
    layer = nn.Conv1d(3, 4, 3)
    model = quantized(copy.deepcopy(layer))
    x = torch.randn(3, 20) + 1
    correct_biases(model, [x])
    torch.testing.assert_close(model(x).mean(1), layer(x).mean(1))


class Choosing(nn.Module):
    """Its second layer is called by keyword, and not with every batch."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, deep):
        x = self.first(x)
        return self.second(input=x) if deep else x


def test_layers_that_are_called_by_keyword_or_only_later_take_part():
    torch.manual_seed(0)
    model = Choosing()
    dense = copy.deepcopy(model)
    QAT_Quantizer(model, [{"quant_types": ["weight"], "quant_bits": 3, "op_types": ["Linear"]}]).compress()
    batches = [(torch.randn(64, 4) + 1, deep) for deep in (False, True)]
    assert list(correct_biases(model, batches)) == ["first", "second"]
    torch.testing.assert_close(model(*batches[1]).mean(0), dense(*batches[1]).mean(0))
    assert list(round_adaptively(model, batches, iterations=2)) == ["first", "second"]
