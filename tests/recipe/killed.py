"""Runs a recipe in a process of its own, which may kill itself: ``killed.py RECIPE FOLDER EVENTS_BEFORE_DEATH``.

Events are batches that are read, and files that are complete and not yet in their places. Prints how many there were
and what came of it, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from tests.recipe import parts
from torchpare.recipe import recipe_of, run_recipe
from torchpare.search.fingerprint import of_model

_left = [0]
_fsync = os.fsync


def _event() -> None:
    _left[0] -= 1
    if _left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _mortal_fsync(file: int) -> None:
    _fsync(file)
    _event()


class Batches:
    """The digits in another order every time, each batch an event."""

    def __init__(self) -> None:
        self.loader = parts.train(192)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[object]:
        for batch in self.loader:
            _event()
            yield batch


def batches() -> Batches:
    return Batches()


def accuracy(model: nn.Module) -> float:
    _event()
    return parts.accuracy(model)


HALF = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
ADAM = {"name": "Adam", "lr": 2e-3}
STAGES = {
    "gradual": [
        {"prune": {"pruner": "AGPPruner", "config_list": HALF, "optimizer": ADAM,
                   "arguments": {"num_iterations": 3, "pruning_algorithm": "l1"}}},
        {"finetune": {"epochs": 3, "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.9}, "ema": 0.8,
                      "schedule": "one_cycle", "distil": {"task": 0.5}}},
        "shrink",
        {"quantize": {"quantizer": "QAT_Quantizer", "epochs": 2, "optimizer": {"name": "Adam", "lr": 1e-4}}},
    ],
    "tickets": [
        {"prune": {"pruner": "LotteryTicketPruner", "epochs": 2, "optimizer": ADAM,
                   "config_list": [{"sparsity": 0.6, "op_types": ["Conv2d"], "prune_iterations": 2}]}},
        {"prune": {"pruner": "ADMMPruner", "name": "admm", "config_list": [{"sparsity": 0.3, "op_types": ["Conv2d"]}],
                   "arguments": {"num_iterations": 2, "epochs_per_iteration": 2, "base_algo": "level"}}},
        {"finetune": {"epochs": 2, "optimizer": ADAM, "accumulate": 2}},
    ],
    "searched": [
        {"prune": {"pruner": "NetAdaptPruner", "config_list": HALF, "optimizer": ADAM, "fine_tune_epochs": 1,
                   "arguments": {"sparsity_per_iteration": 0.25}}},
        "shrink",
        {"finetune": {"epochs": 2, "optimizer": ADAM}},
        "quantize",
    ],
}  # fmt: skip


def main() -> None:
    """Run, with as many events to live as the third argument says; 0 for no end."""
    name, folder, _left[0] = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    os.fsync = _mortal_fsync
    recipe = recipe_of({"name": name, "model": "tests.recipe.parts:net", "data": {"train": f"{__name__}:batches"},
                        "evaluate": f"{__name__}:accuracy", "stages": STAGES[name]})  # fmt: skip
    result = run_recipe(recipe, folder)
    assert result.model is not None
    metrics = [dict(stage.metrics) for stage in result.stages]
    print(json.dumps({"weights": of_model(result.model), "metrics": metrics, "events": -_left[0]}))


if __name__ == "__main__":
    main()
