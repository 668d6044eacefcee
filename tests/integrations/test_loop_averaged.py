"""Loops of one's own with averaged weights: the average has the masks and grids of the model that trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.integrations.runs import (
    CONVS,
    EPOCHS,
    learn,
    made,
    same,
    sgd,
    through_a_file,
)
from tests.pruning.training import Small
from torchpare.attach import FakeQuantize
from torchpare.errors import ConfigError
from torchpare.integrations import compression
from torchpare.pruning import L1FilterPruner

CHANGING = ["AGP", "AGP of filters", "Taylor", "movement", "QAT, late", "LSQ+, late", "AGP and QAT, late"]


@pytest.mark.parametrize("case", CHANGING)
def test_averaged_weights_are_the_average_and_have_the_masks_and_grids_of_the_model(case):
    def ema(model):
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    model, compressors = made(case)
    optimizer, averaged = sgd(model), ema(model)
    expected = None
    with compression(*compressors, optimizer=optimizer, averaged=averaged) as control:
        for epoch in control.epochs(EPOCHS):
            for _ in learn(model, optimizer, epoch):
                averaged.update_parameters(model)
                for (name, own), other in zip(model.named_buffers(), averaged.module.buffers(), strict=True):
                    assert torch.equal(own, other), name
                now = {name: own.detach().clone() for name, own in model.named_parameters()}
                expected = {name: 0.9 * old + 0.1 * now[name] for name, old in (expected or now).items()}
    for name, own in averaged.module.named_parameters():
        if "quantizer" not in name:
            torch.testing.assert_close(own, expected[name])
    for path, layer in model.named_modules():
        if isinstance(layer, FakeQuantize):
            assert layer.active
            assert averaged.module.get_submodule(path).active


def test_what_an_average_computes_with_is_zero_where_the_models_masks_are():
    model, compressors = made("AGP of filters")
    optimizer, averaged = sgd(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with compression(*compressors, optimizer=optimizer, averaged=averaged) as control:
        for epoch in control.epochs(EPOCHS):
            for _ in learn(model, optimizer, epoch):
                averaged.update_parameters(model)
    for path, layer in (("a", model.a), ("norm_a", model.norm_a), ("b", model.b)):
        weight = averaged.module.get_submodule(path).weight
        assert int((~layer.weight_mask).sum()) > 0
        assert not weight[~layer.weight_mask.expand_as(weight)].any()


def test_an_average_is_resumed_with_the_rest():
    def begin(seed):
        model, compressors = made("AGP and QAT, late", seed)
        return model, compressors, sgd(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    ends = []
    saved = None
    for seed in (0, 1):
        model, compressors, optimizer, averaged = begin(seed)
        with compression(*compressors, optimizer=optimizer, averaged=averaged) as control:
            if saved is not None:
                for own, state in zip((model, optimizer, averaged, control), saved, strict=True):
                    own.load_state_dict(state)
            for epoch in control.epochs(EPOCHS):
                for _ in learn(model, optimizer, epoch):
                    averaged.update_parameters(model)
                if epoch == 1 and saved is None:
                    saved = through_a_file([own.state_dict() for own in (model, optimizer, averaged, control)])
        ends.append(averaged)
    assert same(ends[1], ends[0])


def test_averages_that_would_spoil_masks_are_an_error():
    model, compressors = made("AGP")
    optimizer = sgd(model)
    with pytest.raises(ConfigError, match=r"use_buffers=True, which would take averages of masks"):
        compression(*compressors, optimizer=optimizer, averaged=AveragedModel(model, use_buffers=True))
    with pytest.raises(ConfigError, match=r"no copy of the Small"):
        compression(*compressors, optimizer=optimizer, averaged=AveragedModel(nn.Linear(2, 2)))
    model = Small()
    pruner = L1FilterPruner(model, CONVS)
    pruner.compress()
    with pytest.raises(ConfigError, match="wait for a first batch"):
        compression(pruner, optimizer=sgd(model), averaged=AveragedModel(model))
