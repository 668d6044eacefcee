"""Lightning's averaged weights beside the callback: the average has the masks and grids of the model that trains."""

from __future__ import annotations

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from tests.integrations.lightning_runs import module_of, trainer
from tests.integrations.runs import EPOCHS, by_hand, made, same
from torchpare.attach import masks_of
from torchpare.errors import ConfigError
from torchpare.integrations.lightning import CompressionCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning.*"),  # of CPUs, workers and loggers
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:pytorch_lightning.*"),
]


def averaged_by_hand(case):
    averaged = {}

    def update(model):
        for name, own in model.named_parameters():
            averaged[name] = 0.9 * averaged[name] + 0.1 * own.detach() if name in averaged else own.detach().clone()

    by_hand(case, each_step=update)
    return averaged


@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_have_the_masks_of_the_model_that_trains(tmp_path, first):
    model, compressors = made("AGP of filters")
    both = [CompressionCallback(*compressors), EMAWeightAveraging(use_buffers=False, decay=0.9)]
    trainer(tmp_path, *(both if first else reversed(both))).fit(module_of(lightning.pytorch, model))
    expected = averaged_by_hand("AGP of filters")
    for name, own in model.named_parameters():
        torch.testing.assert_close(own, expected[name])
    assert {name: own["weight"].tolist() for name, own in masks_of(model).items() if "weight" in own} == {
        name: own["weight"].tolist() for name, own in masks_of(by_hand("AGP of filters")).items() if "weight" in own
    }


@pytest.mark.parametrize("case", ["AGP of filters", "AGP and QAT, late", "LSQ+, late", "movement"])
def test_averaged_weights_are_resumed_with_the_rest(case, tmp_path):
    def run(folder, seed, callbacks, **fit):
        model, compressors = made(case, seed)
        kept = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, enable_version_counter=False)
        options = {"max_epochs": fit.pop("max_epochs", EPOCHS), "num_sanity_val_steps": 2}
        trainer(folder, CompressionCallback(*compressors), *callbacks(), kept, **options).fit(
            module_of(lightning.pytorch, model), **fit
        )
        return model

    def callbacks():
        return [EMAWeightAveraging(use_buffers=False, decay=0.9)]

    whole = run(tmp_path / "whole", 0, callbacks)
    run(tmp_path / "part", 0, callbacks, max_epochs=2)
    resumed = run(tmp_path / "part", 1, callbacks, ckpt_path=tmp_path / "part" / "epoch=1.ckpt")
    assert same(resumed, whole)


def test_averages_that_would_spoil_masks_are_an_error(tmp_path):
    model, compressors = made("AGP")
    with pytest.raises(ConfigError, match="use_buffers=True"):
        trainer(tmp_path, EMAWeightAveraging(), CompressionCallback(*compressors)).fit(
            module_of(lightning.pytorch, model)
        )
    assert not model._load_state_dict_pre_hooks
