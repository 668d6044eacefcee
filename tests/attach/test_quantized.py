"""Quantizers on layers: written in, moved, replicated, taken off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.attach import detach_quantizers
from torchpare.quantization import DoReFaQuantizer, LsqQuantizer, QAT_Quantizer

WEIGHTS = [{"quant_types": ["weight"], "quant_bits": 4, "op_types": ["Linear"]}]


@pytest.mark.parametrize("quantizer", [DoReFaQuantizer, QAT_Quantizer, LsqQuantizer])
def test_a_shared_weight_is_written_in_once(quantizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 10, bias=False))
    model[1].weight = model[0].weight
    quantizer(model, WEIGHTS).compress()
    before = model[1].weight.detach().clone()
    detach_quantizers(model, bake=True)
    assert torch.equal(model[0].weight, before)
    assert model[0].weight is model[1].weight
