"""Quantizers and small models under NNI's names are torchpare's own: the same bits."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from tests.support.equal import FILTERS, X, evaluator, net, sgd, states_equal, train

QUANTIZED = [
    {"quant_types": ["weight", "output"], "quant_bits": {"weight": 8, "output": 8}, "op_types": ["Conv2d"]},
    {"exclude": True, "op_names": ["3"]},
]
WEIGHT = [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]


@pytest.mark.parametrize(
    ("name", "asked"),
    [("QAT_Quantizer", QUANTIZED), ("NaiveQuantizer", WEIGHT), ("DoReFaQuantizer", WEIGHT), ("LsqQuantizer", WEIGHT)],
)
def test_a_quantizer_of_2_3_is_torchpare_s(name, asked, tmp_path):
    found = []
    for path in ("nni.algorithms.compression.pytorch.quantization", "torchpare.quantization"):
        model = net()
        optimizer = sgd(model)
        quantizer = getattr(import_module(path), name)(model, asked, optimizer)
        assert quantizer.compress() is model
        train(model, optimizer)
        calibration = quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
        found.append((model.state_dict(), torch.load(tmp_path / "model.pth"), calibration))
    states_equal(found[0][0], found[1][0])
    states_equal(found[0][1], found[1][1])
    assert str(found[0][2]) == str(found[1][2])


def test_a_quantizer_of_3_0_is_torchpare_s():
    from nni.compression.quantization import QATQuantizer

    from torchpare.quantization import QATQuantizer as Ours

    later = [{"op_names": ["0"], "target_names": ["weight", "_output_0"], "quant_dtype": "int8",
              "target_settings": {"_output_0": {"quant_dtype": "uint8"}}}]  # fmt: skip
    theirs, own = net(), net()
    _, calibration = QATQuantizer(theirs, later, evaluator(theirs)).compress(max_epochs=2)
    optimizer = sgd(own)
    quantizer = Ours(own, QUANTIZED, optimizer)
    quantizer.compress()
    for _ in range(2):
        train(own, optimizer)
    states_equal(theirs.state_dict(), own.state_dict())
    assert calibration["0"]["weight_bits"] == calibration["0"]["output_bits"] == 8


def test_a_small_model_is_the_one_that_torchpare_makes(tmp_path):
    from nni.compression.pytorch import ModelSpeedup as Second
    from nni.compression.speedup import ModelSpeedup as Third

    from torchpare import ModelSpeedup
    from torchpare.pruning import L1FilterPruner

    states = []
    for kind in (ModelSpeedup, Second, Third):
        model = net()
        L1FilterPruner(model, FILTERS[:1], dummy_input=X).compress()
        job = kind(model, X)
        returned = job.speedup_model()
        states.append(model.state_dict())
        assert returned is model if kind is Third else returned.exact
    states_equal(states[0], states[1])
    states_equal(states[0], states[2])
