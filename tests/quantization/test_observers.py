"""An observer that an entry asks for is heeded, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.errors import ConfigError
from torchpare.quantization import LsqQuantizer, NaiveQuantizer, ObserverQuantizer, PACTQuantizer, QAT_Quantizer


def entry(kind, observer):
    return {"quant_types": [kind], "quant_bits": 4, "op_types": ["Linear"], "granularity": "tensor",
            "observer": observer}  # fmt: skip


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30))


@pytest.mark.parametrize("kind", ["weight", "input", "output"])
def test_post_training_heeds_every_observer(kind):
    batches = [torch.randn(64, 40, generator=torch.Generator().manual_seed(0)) ** 3 * size for size in (3, 1)]
    steps = {}
    for observer in ("min_max", "percentile", "kl", "mse"):
        extra = {"percentile": 99} if observer == "percentile" else {}
        model = ObserverQuantizer(net(), [{**entry(kind, observer), **extra}]).calibrate(batches)
        steps[observer] = float(getattr(model[0], f"{kind}_quantizer").scale)
    assert kind == "weight" or len(set(steps.values())) == 4
    assert max(steps.values()) == steps["min_max"] > steps["mse"]


@pytest.mark.parametrize(
    ("quantizer", "kind", "observer"),
    [(QAT_Quantizer, "weight", "mse"), (QAT_Quantizer, "output", "percentile"), (QAT_Quantizer, "input", "kl"),
     (NaiveQuantizer, "weight", "kl"), (LsqQuantizer, "input", "min_max"), (LsqQuantizer, "weight", "mse"),
     (PACTQuantizer, "output", "moving_average")],
)  # fmt: skip
def test_others_refuse_what_they_would_not_heed(quantizer, kind, observer):
    with pytest.raises(ConfigError, match=rf"0\.{kind}: 'observer' is '{observer}'; .*ObserverQuantizer"):
        quantizer(net(), [entry(kind, observer)])


def test_trained_ranges_are_all_that_was_seen_or_a_moving_average():
    highs = []
    for observer in ("min_max", "moving_average"):
        model = QAT_Quantizer(net(), [entry("input", observer)]).compress()
        for size in (2.0, 1.0):
            model(torch.full((3, 40), size))
        highs.append(float(model[0].input_quantizer.high))
    assert highs[0] == 2 > highs[1] > 1
