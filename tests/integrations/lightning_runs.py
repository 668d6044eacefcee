"""A LightningModule and a trainer as users write them, around the small net of these tests."""

from __future__ import annotations

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional

from tests.integrations.runs import EPOCHS, sgd
from tests.pruning.training import batches

__all__ = ["module_of", "trainer"]


class Data(torch.utils.data.IterableDataset):
    """The same batches in each epoch's place as everywhere in these tests."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        return iter(batches(self.epoch))

    def __len__(self):
        return 4


def module_of(base, model):
    """The LightningModule that a user would write around a model."""

    class Module(base.LightningModule):
        def __init__(self, net):
            super().__init__()
            self.net = net
            self.data = Data()

        def training_step(self, batch, at):
            x, y = batch
            return functional.cross_entropy(self.net(x), y)

        def validation_step(self, batch, at):
            x, y = batch
            self.log("loss", functional.cross_entropy(self.net(x), y))

        def configure_optimizers(self):
            return sgd(self.net)

        def train_dataloader(self):
            self.data.epoch = self.trainer.current_epoch
            return torch.utils.data.DataLoader(self.data, batch_size=None)

        def val_dataloader(self):
            return torch.utils.data.DataLoader(batches(99), batch_size=None)

    return Module(model)


def trainer(folder, *callbacks, base=lightning.pytorch, **options):
    kept = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return base.Trainer(
        max_epochs=options.pop("max_epochs", EPOCHS), accelerator="cpu", callbacks=list(callbacks), logger=False,
        default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=kept, **{"reload_dataloaders_every_n_epochs": 1, **options},
    )  # fmt: skip
