"""Compressors of every kind on a small net, and the loop that a user would write by hand."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.pruning.training import Small, batches
from torchpare.attach import Compressor
from torchpare.integrations import compression
from torchpare.pruning import (
    ActivationAPoZRankFilterPruner,
    AGPPruner,
    L1FilterPruner,
    LinearPruner,
    LotteryTicketPruner,
    MovementPruner,
    TaylorFOWeightFilterPruner,
)
from torchpare.quantization import LsqPlusQuantizer, LsqQuantizer, PACTQuantizer, QATQuantizer

__all__ = [
    "ALL",
    "CASES",
    "EPOCHS",
    "X",
    "by_hand",
    "controlled",
    "learn",
    "made",
    "run",
    "same",
    "sgd",
    "through_a_file",
]

EPOCHS = 4
X = torch.ones(2, 1, 6, 6)
CONVS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
EIGHT_BITS = [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["Conv2d"]}]
LATE = [{**EIGHT_BITS[0], "quant_start_step": 6}]
LATE_OUTPUTS = [{**LATE[0], "quant_types": ["output"]}]

Make = Callable[[nn.Module, Any], list[Compressor]]

CASES: dict[str, Make] = {
    "one shot": lambda model, steps: [L1FilterPruner(model, CONVS, steps)],
    "AGP": lambda model, steps: [AGPPruner(model, CONVS, steps, num_iterations=4)],
    "AGP of filters": lambda model, steps: [
        AGPPruner(model, CONVS, steps, num_iterations=4, pruning_algorithm="l1", dummy_input=X)
    ],
    "AGP of filters, completed by the first batch": lambda model, steps: [
        AGPPruner(model, CONVS, steps, num_iterations=4, pruning_algorithm="l1")
    ],
    "linear, by gradients": lambda model, steps: [
        LinearPruner(model, CONVS, steps, num_iterations=4, pruning_algorithm="taylorfo", dummy_input=X)
    ],
    "linear, by activations": lambda model, steps: [
        LinearPruner(model, CONVS, steps, num_iterations=4, pruning_algorithm="apoz", dummy_input=X)
    ],
    "Taylor": lambda model, steps: [
        TaylorFOWeightFilterPruner(model, CONVS, steps, sparsifying_training_batches=6, dummy_input=X)
    ],
    "APoZ": lambda model, steps: [
        ActivationAPoZRankFilterPruner(model, CONVS, steps, sparsifying_training_batches=6, dummy_input=X)
    ],
    "movement": lambda model, steps: [MovementPruner(model, CONVS, steps, warm_up_step=3, cool_down_beginning_step=12)],
    "lottery ticket": lambda model, steps: [
        LotteryTicketPruner(model, [{**CONVS[0], "prune_iterations": 2}], steps, rewind_epoch=2)
    ],
    "QAT": lambda model, steps: [QATQuantizer(model, EIGHT_BITS, steps)],
    "QAT, late": lambda model, steps: [QATQuantizer(model, LATE, steps)],
    "LSQ": lambda model, steps: [LsqQuantizer(model, EIGHT_BITS, steps)],
    "LSQ+, late": lambda model, steps: [LsqPlusQuantizer(model, LATE, steps)],
    "PACT, late": lambda model, steps: [PACTQuantizer(model, LATE_OUTPUTS, steps)],
    "AGP and QAT, late": lambda model, steps: [
        AGPPruner(model, CONVS, steps, num_iterations=4),
        QATQuantizer(model, LATE, steps),
    ],
}


ALL = [
    pytest.param(case, marks=() if case in ("AGP and QAT, late", "linear, by gradients") else pytest.mark.slow)
    for case in CASES
]
"""All cases, of which a hasty run takes two."""


def made(case: str, seed: int = 0) -> tuple[Small, list[Compressor]]:
    """A model and its compressors, which know no optimizer, after ``compress()``."""
    torch.manual_seed(seed)
    model = Small()
    compressors = CASES[case](model, None)
    for own in compressors:
        own.compress()
    return model, compressors


def sgd(model: nn.Module, *, fused: bool = False) -> torch.optim.Optimizer:
    """With something to remember."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)


def by_hand(
    case: str,
    *,
    accumulate: int = 1,
    clip: float | None = None,
    bf16: bool = False,
    each_step: Callable[[nn.Module], None] = lambda _: None,
    skipped: Sequence[int] = (),
    data: Callable[[int], list[tuple[torch.Tensor, torch.Tensor]]] = batches,
    fused: bool = False,
) -> Small:
    """The model that a user's own loop trains, who gives everybody the optimizer and forgets no call."""
    torch.manual_seed(0)
    model = Small()
    optimizer = sgd(model, fused=fused)
    compressors = CASES[case](model, optimizer)
    for own in compressors:
        own.compress()
    step = 0
    for epoch in range(EPOCHS):
        for own in compressors:
            own.update_epoch(epoch)
        model.train()
        for at, (x, y) in enumerate(data(epoch)):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = functional.cross_entropy(model(x), y)
            (loss / accumulate).backward()
            if (at + 1) % accumulate:
                continue
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if step not in skipped:
                optimizer.step()
                for own in compressors:
                    own.step()
                each_step(model)
            step += 1
            optimizer.zero_grad()
    return model


def same(model: nn.Module, other: nn.Module) -> bool:
    """Bit by bit: weights, masks, scales, counted steps."""
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys(), state.keys() ^ expected.keys()
    different = [key for key in state if not torch.equal(state[key], expected[key])]
    assert not different, different
    return True


def through_a_file(state: Any) -> Any:
    """As a checkpoint brings it: read without running any code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def learn(model, optimizer, epoch, *, accumulate=1, clip=None, bf16=False, scaler=None, spoilt=(), first=0):
    """One epoch; some batches may have gradients that no number can hold."""
    model.train()
    for at, (x, y) in list(enumerate(batches(epoch)))[first:]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(model(x), y)
        loss = loss / accumulate
        (loss if scaler is None else scaler.scale(loss)).backward()
        if (at + 1) % accumulate:
            continue
        if 4 // accumulate * epoch + at // accumulate in spoilt:
            model.head.weight.grad[0, 0] = torch.inf
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        yield


def run(model, optimizer, epoch, **how):
    for _ in learn(model, optimizer, epoch, **how):
        pass


def controlled(case, **how):
    model, compressors = made(case)
    optimizer = sgd(model)
    with compression(*compressors, optimizer=optimizer) as control:
        for epoch in control.epochs(EPOCHS):
            run(model, optimizer, epoch, **how)
    return model
