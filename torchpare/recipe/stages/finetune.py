"""The stage ``finetune``: training, with the dense model as teacher if that is asked for."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchpare.distillation import Distiller, terms_from_config
from torchpare.recipe.job import Job, Outcome
from torchpare.recipe.named import build_model
from torchpare.recipe.settings import Distillation, FinetuneStage
from torchpare.recipe.training import Trainer
from torchpare.recipe.training_state import Epoch

__all__ = ["run", "taught", "trained"]


def run(settings: FinetuneStage, job: Job) -> Outcome:
    """Train the model."""
    trainer = taught(job.trainer(settings), settings.distil, job)
    history = trained(trainer, settings.epochs, job)
    return Outcome(job.model, job.quantized, {"history": history})


def trained(
    trainer: Trainer, epochs: int, job: Job, *, listeners: tuple[Any, ...] = (), optimizer: Any = None
) -> list[dict[str, Any]]:
    """Train for some epochs, from the stage's checkpoint on; returns what each came to, JSON-able."""
    done = 0

    def tick(share: float) -> None:
        job.progress(f"epoch {done + 1} of {epochs}", (done + share) / epochs)

    def after(number: int, epoch: Epoch) -> None:
        nonlocal done
        done = number + 1
        said = ", ".join(f"{name} {value:.4g}" for name, value in epoch.metrics.items())
        job.progress(f"epoch {done} of {epochs}: loss {epoch.loss:.4g}{', ' if said else ''}{said}", done / epochs)

    trainer.tick = tick
    history = trainer.run(
        job.model, epochs, job.folder, listeners=listeners, evaluate=job.materials.metrics, after_epoch=after,
        optimizer=optimizer,
    )  # fmt: skip
    return [{"loss": epoch.loss, "metrics": dict(epoch.metrics)} for epoch in history]


def taught(trainer: Trainer, said: Distillation | None, job: Job) -> Trainer:
    """The same trainer, with a teacher if one is asked for.

    Raises:
        ConfigError: the distillation cannot be made of these words.
    """
    if said is None:
        return trainer
    terms = terms_from_config(said.terms)

    def teacher() -> Distiller:
        dense: nn.Module = job.materials.build() if said.teacher is None else build_model(said.teacher)
        return Distiller(job.model, dense.to(job.materials.device), terms)

    trainer.teacher, trainer.task = teacher, said.task
    return trainer
