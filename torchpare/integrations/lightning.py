"""Lightning: a callback that tells pruners and quantizers how far training is, and lives in its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchpare.attach import Compressor
from torchpare.errors import MissingExtraError
from torchpare.integrations.following import (
    Following,
    check_averaged,
    check_trained,
    checked,
    load_states,
    states,
)

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise MissingExtraError("Lightning is not installed: pip install 'torchpare[lightning]'") from error

__all__ = ["CompressionCallback"]

_WHERE = "CompressionCallback"


class CompressionCallback(Callback):
    """Tells pruners and quantizers of epochs and optimizer steps, and saves them in the trainer's checkpoints.

    ::

        pruner = AGPPruner(module.net, config_list, dummy_input=x)
        pruner.compress()
        Trainer(max_epochs=10, callbacks=[CompressionCallback(pruner)]).fit(module)

    It goes with ``lightning`` and with ``pytorch_lightning``. Batches whose gradients are accumulated are no steps, nor
    are those that mixed precision leaves out. Averaged weights (``EMAWeightAveraging(use_buffers=False)``) get the
    masks and ranges of the model that trains. ``trainer.fit(..., ckpt_path=...)`` with new objects goes on where the
    checkpoint was made.

    Args:
        compressors: pruners and quantizers, whose ``compress()`` has been called. Their model is the LightningModule
            or a part of it. They need no optimizer: it is that of ``configure_optimizers``.

    Raises:
        ConfigError: there is no compressor, or one is none or has not compressed its model. When training begins: its
            model does not train, it waits for the steps of another optimizer, or averaging would spoil masks.
    """

    def __init__(self, *compressors: Compressor) -> None:
        super().__init__()
        self._following = Following(checked(compressors, _WHERE))
        self._following.expect_states()  # before other callbacks copy the model

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that what is compressed is what trains."""
        del trainer
        if stage == "fit":
            check_trained(self._following.compressors, pl_module, _WHERE)
        self._following.expect_states()  # a test may load the best checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the optimizers, which are there by now, before validation is tried out."""
        averaged = _averaged(trainer, pl_module)
        check_averaged(self._following.compressors, averaged, _WHERE)
        self._following.start(trainer.optimizers, averaged, _WHERE)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of an epoch."""
        del pl_module
        self._following.update_epoch(trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell no more."""
        del trainer, pl_module
        self._following.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the model; a checkpoint that is written now is whole."""
        del trainer, pl_module, exception
        self._following.let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the model."""
        del trainer, pl_module, stage
        self._following.let_go()

    def state_dict(self) -> dict[str, Any]:
        """What the compressors know beside the model."""
        return {"compressors": states(self._following.compressors)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was made.

        Raises:
            ConfigError: it was made with other compressors.
        """
        load_states(self._following.compressors, state_dict.get("compressors"), _WHERE)


def _averaged(trainer: Trainer, model: nn.Module) -> list[tuple[nn.Module, AveragedModel]]:
    """The averaged copies of the model that other callbacks keep, whatever they call them."""
    kept = [own for callback in trainer.callbacks for own in vars(callback).values()]  # type: ignore[attr-defined]
    return [(model, own) for own in kept if isinstance(own, AveragedModel)]
