"""Hugging Face's ``Trainer``: a callback that tells pruners and quantizers how far training is."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from torchpare.attach import Compressor
from torchpare.errors import CheckpointError, MissingExtraError
from torchpare.files.atomic import atomic_write
from torchpare.integrations.following import Following, check_trained, checked, load_states, states
from torchpare.integrations.loop import unwrapped

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise MissingExtraError("transformers is not installed: pip install 'torchpare[transformers]'") from error

__all__ = ["CompressionCallback"]

_WHERE = "CompressionCallback"
_FILE = "compression.pt"


class CompressionCallback(TrainerCallback):
    """Tells pruners and quantizers of epochs and optimizer steps, and saves them beside the trainer's checkpoints.

    ::

        pruner = MovementPruner(model, config_list, warm_up_step=100, cool_down_beginning_step=1000)
        pruner.compress()
        Trainer(model, args, train_dataset=data, callbacks=[CompressionCallback(pruner)]).train()

    Batches whose gradients are accumulated are no steps, nor are those that mixed precision leaves out. Each checkpoint
    folder gets a file ``compression.pt``; ``trainer.train(resume_from_checkpoint=...)`` with new objects goes on from
    there.

    Args:
        compressors: pruners and quantizers, whose ``compress()`` has been called. Their model is the trainer's or a
            part of it. They need no optimizer: it is the trainer's.
        resume: where the file is found when training is resumed. True: in the folder that the trainer resumes from, as
            far as a callback can know it: ``args.resume_from_checkpoint``, or ``checkpoint-<step>`` in
            ``args.output_dir``. A path: in that checkpoint folder. False: nowhere, because the checkpoint was made
            without pruners and quantizers, which begin now.

    Raises:
        ConfigError: there is no compressor, or one is none or has not compressed its model. When training begins: its
            model does not train, or it waits for the steps of another optimizer.
        CheckpointError: when training is resumed: there is no such file, or it cannot be read.
    """

    def __init__(self, *compressors: Compressor, resume: str | os.PathLike[str] | bool = True) -> None:
        super().__init__()
        self._following = Following(checked(compressors, _WHERE))
        self._following.expect_states()  # before the trainer loads its checkpoint
        self.resume = resume
        self._epoch: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Follow the optimizer; in a run that is resumed, go on where its checkpoint was made."""
        del control
        model, optimizer = given["model"], given["optimizer"]
        assert isinstance(model, nn.Module)
        assert isinstance(optimizer, Optimizer)
        check_trained(self._following.compressors, model, _WHERE)
        if state.global_step and self.resume is not False:
            load_states(self._following.compressors, _read(_folder(self.resume, args, state)), _WHERE)
        self._following.expect_states()
        self._following.start([unwrapped(optimizer)], (), _WHERE)
        self._epoch = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Tell of an epoch."""
        del args, control, given
        # The state counts in parts of epochs, and an epoch may be cut short: only of the first does it tell the number.
        self._epoch = int(state.epoch or 0) if self._epoch is None else self._epoch + 1
        self._following.update_epoch(self._epoch)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Write down what the compressors know beside the model."""
        del control, given
        folder = _step_folder(args, state)
        if state.is_world_process_zero and folder.is_dir():
            with atomic_write(folder / _FILE) as lent:
                torch.save(states(self._following.compressors), lent)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Tell no more; where the trainer has gone back to its best model, go back with it."""
        del control, given
        self._following.stop()
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if best is not None and (Path(best) / _FILE).is_file():
            load_states(self._following.compressors, _read(Path(best)), _WHERE)


def _step_folder(args: TrainingArguments, state: TrainerState) -> Path:
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _folder(resume: str | os.PathLike[str] | Literal[True], args: TrainingArguments, state: TrainerState) -> Path:
    """Where the checkpoint lies that the trainer has resumed from."""
    if resume is not True:
        return Path(resume)
    said = args.resume_from_checkpoint
    return Path(said) if said and Path(said).is_dir() else _step_folder(args, state)


def _read(folder: Path) -> Any:
    path = folder / _FILE
    if not path.is_file():
        raise CheckpointError(
            f"{_WHERE}: training is resumed, and there is no {path}: say in which checkpoint folder it is "
            "(resume=FOLDER), or, if that checkpoint was made before there were pruners or quantizers, resume=False"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is truncated, or not what {_WHERE} has written ({error})") from error
