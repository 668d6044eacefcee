"""Loops of one's own with averaged weights: the average has the masks and grids of the model that trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.integrations.runs import (
    CASES,
    CONVS,
    EPOCHS,
    X,
    learn,
    made,
    same,
    sgd,
    through_a_file,
)
from tests.pruning.training import Small
from torchpare.errors import ConfigError
from torchpare.integrations import compression
from torchpare.pruning import L1FilterPruner

every_case = pytest.mark.parametrize("case", CASES)


@pytest.mark.parametrize("case", ["AGP", "AGP of filters", "movement", "QAT, late", "LSQ+, late", "AGP and QAT, late"])
def test_averaged_weights_have_the_masks_and_grids_of_the_model_and_the_average_of_its_weights(case):
    def ema(model):
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    model, compressors = made(case)
    optimizer, averaged = sgd(model), ema(model)
    expected = None
    with compression(*compressors, optimizer=optimizer, averaged=averaged) as control:
        for epoch in control.epochs(EPOCHS):
            for _ in learn(model, optimizer, epoch):
                averaged.update_parameters(model)
                now = {name: own.detach().clone() for name, own in model.named_parameters()}
                if expected is None:
                    expected = now
                else:
                    expected = {name: 0.9 * old + 0.1 * now[name] for name, old in expected.items()}
    for name, own in averaged.module.named_parameters():
        if "quantizer" not in name:
            torch.testing.assert_close(own, expected[name])
    twin = averaged.module
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(twin.named_buffers())[name], buffer), name
    for path, layer in model.named_modules():
        if hasattr(layer, "active"):
            assert layer.active
            assert twin.get_submodule(path).active
    twin.eval()
    with torch.no_grad():
        for module in twin.modules():  # what the average computes with is zero where the model's masks are
            for name in getattr(module, "torchpare_masked", ()):
                weight = getattr(module, name)
                assert not weight[~getattr(module, name + "_mask").expand_as(weight)].any()
        assert twin(X).isfinite().all()


def test_learnt_steps_are_averaged_from_where_they_start_not_from_what_stood_there_before():
    model, compressors = made("LSQ+, late")
    optimizer = sgd(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    with compression(*compressors, optimizer=optimizer, averaged=averaged) as control:
        for epoch in control.epochs(EPOCHS):
            for _ in learn(model, optimizer, epoch):
                averaged.update_parameters(model)
    step, average = (net.b.output_quantizer.scale.item() for net in (model, averaged.module))
    assert step < 0.2  # before the first batch it is 1
    assert average == pytest.approx(step, rel=0.2)


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
