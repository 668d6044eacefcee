"""Lightning's trainer with a callback: the same model as a loop with every call in it, interrupted or not."""

from __future__ import annotations

import copy

import lightning
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional

from tests.integrations.lightning_runs import module_of, trainer
from tests.integrations.runs import ALL, CONVS, EPOCHS, LATE, by_hand, made, same, sgd
from tests.pruning.training import Small, batches, train
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError
from torchpare.integrations.lightning import CompressionCallback
from torchpare.pruning import (
    ADMMPruner,
    AGPPruner,
    L1FilterPruner,
    LevelPruner,
    SlimPruner,
    TaylorFOWeightFilterPruner,
)
from torchpare.quantization import QATQuantizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning.*"),  # of CPUs, workers and loggers
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:pytorch_lightning.*"),
]
every_case = pytest.mark.parametrize("case", ALL)


def fitted(case, folder, base=lightning.pytorch, **options):
    model, compressors = made(case)
    trainer(folder, CompressionCallback(*compressors), base=base, **options).fit(module_of(base, model))
    return model


@every_case
def test_the_model_is_that_of_a_loop_with_every_call_in_it(case, tmp_path):
    assert same(fitted(case, tmp_path), by_hand(case))


@pytest.mark.parametrize("case", ["AGP and QAT, late", "linear, by gradients"])
def test_it_goes_with_pytorch_lightning_too(case, tmp_path):
    assert same(fitted(case, tmp_path, pytorch_lightning), by_hand(case))


@every_case
def test_gradients_accumulated_clipped_and_in_bfloat16(case, tmp_path):
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "precision": "bf16-mixed"}
    assert same(fitted(case, tmp_path, **options), by_hand(case, accumulate=2, clip=0.1, bf16=True))


class PowerError(RuntimeError):
    """What fails."""


def interrupted_and_resumed(case, folder, *, epoch, batch, every):
    """A run whose power fails, and another one, of new objects, that goes on from its last checkpoint."""

    class Failing(lightning.pytorch.Callback):
        def on_train_batch_end(self, trainer, module, outputs, data, at):
            if (trainer.current_epoch, at) == (epoch, batch):
                raise PowerError

    def kept():
        return ModelCheckpoint(folder, filename="last", save_top_k=-1, enable_version_counter=False, **every)

    model, compressors = made(case)
    first = trainer(folder, CompressionCallback(*compressors), Failing(), kept())
    with pytest.raises(PowerError):
        first.fit(module_of(lightning.pytorch, model))
    model, compressors = made(case, seed=1)
    second = trainer(folder, CompressionCallback(*compressors), kept())
    second.fit(module_of(lightning.pytorch, model), ckpt_path=folder / "last.ckpt")
    assert second.current_epoch == EPOCHS
    return model


@every_case
def test_resumed_from_a_checkpoint_with_new_objects_it_ends_with_the_same_model(case, tmp_path):
    every = {"every_n_epochs": 1, "save_on_train_epoch_end": True}
    assert same(interrupted_and_resumed(case, tmp_path, epoch=2, batch=1, every=every), by_hand(case))


class Remembered:
    """Batches that know where they are, so that Lightning can begin within an epoch."""

    def __init__(self):
        self.epoch, self.at = 0, 0

    def __iter__(self):
        if self.at == len(self):
            self.epoch, self.at = self.epoch + 1, 0
        for batch in batches(self.epoch)[self.at :]:
            self.at += 1
            yield batch

    def __len__(self):
        return 4

    def state_dict(self):
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state):
        self.epoch, self.at = state["epoch"], state["at"]


@every_case
def test_so_does_one_that_was_saved_within_an_epoch(case, tmp_path):
    def fit(seed, *more, **options):
        model, compressors = made(case, seed)
        kept = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
        trainer(tmp_path, CompressionCallback(*compressors), kept, *more, reload_dataloaders_every_n_epochs=0).fit(
            module_of(lightning.pytorch, model), Remembered(), **options
        )
        return model

    assert same(fit(0), by_hand(case))
    for step in (3, 6):
        assert same(fit(1, ckpt_path=tmp_path / f"step={step}.ckpt"), by_hand(case))


@pytest.mark.parametrize("kind", ["slim", "ADMM", "Taylor"])
def test_pruners_that_train_within_compress_may_train_with_lightning(kind, tmp_path):
    def with_lightning(model, optimizer, criterion, epoch):
        module = module_of(lightning.pytorch, model)
        module.configure_optimizers = lambda: optimizer
        trainer(tmp_path, max_epochs=1).fit(module, torch.utils.data.DataLoader(batches(epoch), batch_size=None))

    def pruned(trains):
        torch.manual_seed(0)
        model = Small()
        steps = sgd(model)
        if kind == "slim":
            asked = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]
            pruner = SlimPruner(model, asked, steps, trains, None, 2, scale=0.05)
        elif kind == "ADMM":
            pruner = ADMMPruner(model, CONVS, trains, None, 2, 1, row=0.05, optimizer=steps)
        else:
            pruner = TaylorFOWeightFilterPruner(model, CONVS, steps, trains, None, 3)
        pruner.compress()
        return model

    assert same(pruned(with_lightning), pruned(train))


def test_a_checkpoint_is_read_without_running_code(tmp_path):
    model, compressors = made("lottery ticket")
    kept = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False)
    trainer(tmp_path, CompressionCallback(*compressors), kept, max_epochs=3).fit(module_of(lightning.pytorch, model))
    model, compressors = made("lottery ticket", seed=1)
    second = trainer(tmp_path, CompressionCallback(*compressors))
    second.fit(module_of(lightning.pytorch, model), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert same(model, by_hand("lottery ticket"))


def test_validation_between_is_no_training(tmp_path):
    model, compressors = made("APoZ")
    trainer(tmp_path, CompressionCallback(*compressors), val_check_interval=1, num_sanity_val_steps=2).fit(
        module_of(lightning.pytorch, model)
    )
    assert same(model, by_hand("APoZ"))


def test_the_model_may_be_the_module_itself_and_training_may_go_on_with_a_second_trainer(tmp_path):
    class Net(Small, lightning.pytorch.LightningModule):
        def training_step(self, batch, at):
            return functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return sgd(self)

    net = Net()
    pruner, quantizer = AGPPruner(net, CONVS, num_iterations=2), QATQuantizer(net, LATE)
    for own in (pruner, quantizer):
        own.compress()
    callback = CompressionCallback(pruner, quantizer)
    data = torch.utils.data.DataLoader(batches(0), batch_size=None)
    for _ in range(2):
        trainer(tmp_path, callback, max_epochs=2).fit(net, data)
    assert int((~masks_of(net)["b"]["weight"]).sum()) == 288
    assert int(net.a.output_quantizer.steps) == 16
    assert not net._load_state_dict_pre_hooks


def test_a_test_loads_the_best_checkpoint_with_its_masks(tmp_path):
    model, compressors = made("AGP of filters")
    callback = CompressionCallback(*compressors)
    kept = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, enable_version_counter=False)
    trainer(tmp_path, callback, kept).fit(module_of(lightning.pytorch, model))
    fresh, compressors = made("AGP of filters", seed=1)
    module, callback = module_of(lightning.pytorch, fresh), CompressionCallback(*compressors)
    trainer(tmp_path, callback, max_epochs=1).fit(module)
    assert not is_attached(fresh)
    trainer(tmp_path, callback).validate(module, ckpt_path=tmp_path / "epoch=3.ckpt")
    assert same(fresh, model)


def test_what_cannot_be_told_of_training_is_an_error_that_says_so():
    with pytest.raises(ConfigError, match="CompressionCallback needs a pruner or a quantizer"):
        CompressionCallback()
    with pytest.raises(ConfigError, match=r"argument 0 is a Small"):
        CompressionCallback(Small())
    with pytest.raises(ConfigError, match=r"call compress\(\) of LevelPruner first"):
        CompressionCallback(LevelPruner(Small(), CONVS))


def test_a_model_that_does_not_train_is_an_error(tmp_path):
    model, compressors = made("AGP")
    with pytest.raises(ConfigError, match=r"AGPPruner compresses a Small that is neither the Module that trains"):
        trainer(tmp_path, CompressionCallback(*compressors)).fit(module_of(lightning.pytorch, copy.deepcopy(model)))


def test_an_optimizer_that_never_steps_is_an_error(tmp_path):
    model = Small()
    quantizer = QATQuantizer(model, LATE, sgd(model))
    quantizer.compress()
    with pytest.raises(ConfigError, match="QATQuantizer was given another optimizer"):
        trainer(tmp_path, CompressionCallback(quantizer)).fit(module_of(lightning.pytorch, model))


def test_a_checkpoint_of_other_compressors_is_an_error(tmp_path):
    model, compressors = made("AGP")
    kept = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False)
    trainer(tmp_path, CompressionCallback(*compressors), kept, max_epochs=1).fit(module_of(lightning.pytorch, model))
    model = Small()
    pruner = L1FilterPruner(model, CONVS)
    pruner.compress()
    with pytest.raises(ConfigError, match="saved with AGPPruner, and here are L1FilterPruner"):
        trainer(tmp_path, CompressionCallback(pruner)).fit(
            module_of(lightning.pytorch, model), ckpt_path=tmp_path / "last.ckpt"
        )
