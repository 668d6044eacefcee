"""Runs a search in a process of its own, which may kill itself: ``killed.py STRATEGY FOLDER TRIALS_BEFORE_DEATH``.

Prints what was found and a digest of the model's weights as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from tests.search.nets import Chain, likelihood, trained
from tests.search.strategies import STRATEGIES
from torchpare.search.fingerprint import of_model

_left = [0]


def mortal(model: nn.Module) -> float:
    """The likelihood; and the end of this process, when its time has come."""
    _left[0] -= 1
    if _left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return likelihood(model)


def main() -> None:
    """Search, with as many evaluations to live as the third argument says; 0 for no end."""
    name, folder, _left[0] = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    model = trained(Chain)
    pruner = STRATEGIES[name](model, mortal, folder)
    pruner.compress()
    print(json.dumps({"found": pruner.get_config_list(), "weights": of_model(model), "left": _left[0]}))


if __name__ == "__main__":
    main()
