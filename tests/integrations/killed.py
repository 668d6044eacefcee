"""A fine-tuning run in a process of its own, which a test kills and starts again.

    python -m tests.integrations.killed FOLDER [STEP]

Saves a checkpoint after each epoch and goes on from the last one that is whole. With STEP it kills itself, by a signal
that nobody can catch, when it has taken that many steps.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch.nn import functional

from tests.integrations.runs import EPOCHS, made, sgd
from tests.pruning.training import batches
from torchpare.files.atomic import atomic_write
from torchpare.integrations import compression


def main(folder: Path, last: int | None) -> None:
    """Train from the last checkpoint, or from the start, to the end."""
    file, taken = folder / "run.pt", 0
    model, compressors = made("AGP and QAT, late", seed=int(file.exists()))
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer) as control:
        parts = (model, optimizer, control)
        if file.exists():
            for own, state in zip(parts, torch.load(file, weights_only=True), strict=True):
                own.load_state_dict(state)
        for epoch in control.epochs(EPOCHS):
            print(epoch, flush=True)
            for x, y in batches(epoch):
                functional.cross_entropy(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
                taken += 1
                if taken == last:
                    os.kill(os.getpid(), signal.SIGKILL)
            with atomic_write(file) as lent:
                torch.save([own.state_dict() for own in parts], lent)
    torch.save(model.state_dict(), folder / "end.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
