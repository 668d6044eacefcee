"""What compressors of NNI 3 have beside their algorithms: masks, calibrations, one on top of the other."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from nni.compression import TorchEvaluator
from nni.compression.pruning import AGPPruner, L1NormPruner, LevelPruner, LinearPruner, MovementPruner
from nni.compression.quantization import BNNQuantizer, DoReFaQuantizer, PtqQuantizer, QATQuantizer
from torch import nn

from torchpare.errors import CompatError, MaskError

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ASKED = [{"op_names": ["0"], "sparse_ratio": 0.5}]
GRIDS = [{"op_names": ["0"], "target_names": ["_input_0", "weight"], "quant_dtype": "int8"}]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(),
                         nn.Linear(64, 3))  # fmt: skip


def evaluator(model):
    def training_func(model, optimizer, training_step, lr_scheduler, max_steps, max_epochs):
        for _ in range(max_steps or max_epochs or 1):
            optimizer.zero_grad()
            training_step(X, model).backward()
            optimizer.step()

    def training_step(batch, model):
        return F.cross_entropy(model(batch), torch.tensor([0, 1, 2, 0]))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return TorchEvaluator(training_func, optimizer, training_step, evaluating_func=lambda m: float(m(X).mean()))


def test_masks_are_made_read_and_put_on_under_their_names():
    model = net()
    pruner = L1NormPruner(model, ASKED)
    masks = pruner.generate_masks()
    assert masks["0"]["weight"].shape == model[0].weight.shape
    assert masks["0"]["weight"].mean() == 0.5
    other = {"0": {"weight": 1 - masks["0"]["weight"], "bias": 1 - masks["0"]["bias"]}}
    pruner.update_masks(other)
    assert torch.equal(pruner.get_masks()["0"]["weight"], other["0"]["weight"])
    with pytest.raises(MaskError):
        pruner.update_masks({"0": {"weight": torch.ones(3, 1, 3, 3)}})
    assert torch.equal(pruner.get_masks()["0"]["weight"], other["0"]["weight"])


def test_a_forward_that_is_tracked_completes_groups():
    model = net()
    pruner = L1NormPruner(model, ASKED)
    pruner.compress()
    assert set(pruner.get_masks()) == {"0"}
    pruner.track_forward(X)
    assert {"0", "1"} <= set(pruner.get_masks())
    masked = model(X)
    pruner.unwrap_model()
    assert type(model[0]) is nn.Conv2d
    torch.testing.assert_close(model(X), masked)
    pruner.wrap_model()
    assert pruner.is_wrapped
    assert list(pruner.get_modules_wrapper()) == ["0"]


def test_a_second_pruner_adds_to_the_first():
    model = net()
    first = L1NormPruner(model, ASKED, evaluator(model))
    first.compress()
    second = LevelPruner.from_compressor(first, [{"op_types": ["Linear"], "sparse_ratio": 0.5}])
    assert second.evaluator is first.evaluator
    _, masks = second.compress()
    assert masks["0"]["weight"].mean() == masks["5"]["weight"].mean() == 0.5


def test_a_quantizer_on_a_pruned_model_keeps_its_zeros():
    model = net()
    pruner = L1NormPruner(model, ASKED, evaluator(model))
    pruner.compress()
    quantizer = QATQuantizer.from_compressor(pruner, GRIDS)
    _, calibration = quantizer.compress(max_steps=3)
    assert int((model[0].weight.flatten(1) == 0).all(dim=1).sum()) == 4
    assert calibration["0"]["weight_bits"] == 8
    quantizer.track_forward(X)
    quantizer.unwrap_model()
    assert list(quantizer.get_modules_wrapper()) == ["0"]


def test_a_calibration_goes_from_one_model_to_another():
    model, other = net(), net()
    _, calibration = QATQuantizer(model, GRIDS, evaluator(model)).compress(max_steps=3)
    second = PtqQuantizer(other, GRIDS, evaluator(other))
    second.compress()
    assert second.get_calibration_config()["0"]["input_scale"] != pytest.approx(0)
    second.update_calibration_config(calibration)
    for key in ("input_scale", "input_zero_point"):
        assert torch.equal(second.get_calibration_config()["0"][key], calibration["0"][key])


def test_post_training_ranges_are_those_that_the_evaluation_shows():
    model = net()
    quantizer = PtqQuantizer(model, GRIDS, evaluator(model))
    _, calibration = quantizer.compress()
    high = max(abs(float(X.min())), float(X.max()))
    assert calibration["0"]["tracked_max_input"] == pytest.approx(high, rel=0.05)
    assert quantizer.compress()[1].keys() == calibration.keys()


def test_signs_and_formulas_take_their_bits():
    entry = {"op_names": ["0"], "target_names": ["weight"]}
    signs = BNNQuantizer(net(), [{**entry, "quant_dtype": "int8"}], None)
    assert signs.targets["0"].entry.quant_bits == {"weight": 1}
    both = [{"quant_types": ["weight"], "quant_bits": 4, "op_names": ["0"]}]
    assert DoReFaQuantizer(net(), both, None).targets["0"].entry.quant_bits == {"weight": 4}


def test_a_schedule_that_training_was_too_short_for_says_so(caplog):
    model = net()
    pruner = AGPPruner(L1NormPruner(model, ASKED, evaluator(model)), interval_steps=3, total_times=2)
    with caplog.at_level(logging.WARNING):
        pruner.compress(max_steps=4)
    assert "AGPPruner: the training ended after 4 steps, in which it pruned 1 of 2 times" in caplog.text


def test_a_schedule_takes_pruners_that_it_can_drive():
    model = net()
    movement = MovementPruner(model, [{"op_types": ["Linear"], "sparse_ratio": 0.5}], evaluator(model), 0, 1)
    for wrong in (movement, None, model):
        with pytest.raises(CompatError, match="it is a LevelPruner, L1NormPruner, L2NormPruner, FPGMPruner or Taylor"):
            LinearPruner(wrong, 1, 1)
