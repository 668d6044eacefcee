"""Every family of pruners, on a share of the data: what has to be the same are the masks.

A case is a function of a `Share`, and does not know how many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.distributed.share import CONVOLUTIONS, WEIGHTS, Share, net, sgd, train
from torchpare.pruning import (
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
    ADMMPruner,
    AGPPruner,
    FPGMPruner,
    HessianFilterPruner,
    L1FilterPruner,
    L2FilterPruner,
    LevelPruner,
    LotteryTicketPruner,
    MovementPruner,
    SlimPruner,
    TaylorFOActivationFilterPruner,
    TaylorFOWeightFilterPruner,
)

__all__ = ["PRUNERS", "second_order"]


def at_once(kind: Any, entries: Any = CONVOLUTIONS) -> Callable[[Share], nn.Module]:
    """Masked first, wrapped then, and trained."""

    def case(share: Share) -> nn.Module:
        model = net()
        kind(model, entries, dummy_input=torch.zeros(2, 1, 6, 6)).compress()
        train(share.together(model), sgd(model), share)
        return model

    return case


def watching(kind: Any, **more: Any) -> Callable[[Share], nn.Module]:
    """What data say in the first two of three steps that the optimizer tells."""

    def case(share: Share) -> nn.Module:
        model = net()
        together, optimizer = share.together(model), sgd(model)
        kind(model, CONVOLUTIONS, optimizer, sparsifying_training_batches=2, **more).compress()
        train(together, optimizer, share)
        return model

    return case


def told_steps(share: Share) -> nn.Module:
    """Gradients watched without an optimizer, before DDP has averaged them."""
    model = net()
    together, optimizer = share.together(model), sgd(model)
    pruner = TaylorFOWeightFilterPruner(model, CONVOLUTIONS, sparsifying_training_batches=2)
    pruner.compress()
    train(together, optimizer, share, after=pruner.step)
    return model


def second_order(share: Share) -> nn.Module:
    """The loss is shown to the pruner before it is taken back."""
    model = net()
    together, optimizer = share.together(model), sgd(model)
    pruner = HessianFilterPruner(model, CONVOLUTIONS, optimizer, sparsifying_training_batches=2)
    pruner.compress()
    together.eval()
    for x, y in share.batches(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(together(x), y)
        pruner.observe(loss)
        loss.backward()
        optimizer.step()
    return model


def epochs(algorithm: str) -> Callable[[Share], nn.Module]:
    """More from epoch to epoch, by what is seen in each."""

    def case(share: Share) -> nn.Module:
        model = net()
        together, optimizer = share.together(model), sgd(model)
        pruner = AGPPruner(model, CONVOLUTIONS, optimizer, num_iterations=3, pruning_algorithm=algorithm)
        pruner.compress()
        for epoch in range(4):
            pruner.update_epoch(epoch)
            train(together, optimizer, share, seed=epoch)
        return model

    return case


def movement(share: Share) -> nn.Module:
    model = net()
    together, optimizer = share.together(model), sgd(model)
    pruner = MovementPruner(model, WEIGHTS, optimizer, warm_up_step=1, cool_down_beginning_step=4)
    pruner.compress()
    train(together, optimizer, share, number=5)
    pruner.finish()
    return model


def slim(share: Share) -> nn.Module:
    model = net()
    together, optimizer = share.together(model), sgd(model)

    def trainer(given: nn.Module, **_: Any) -> None:
        assert given is model
        train(together, optimizer, share)

    entries = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]
    SlimPruner(model, entries, optimizer, trainer, sparsifying_training_epochs=2, scale=0.01).compress()
    return model


def admm(share: Share) -> nn.Module:
    model = net()
    together, optimizer = share.together(model), sgd(model)

    def trainer(given: nn.Module, **_: Any) -> None:
        assert given is model
        train(together, optimizer, share)

    ADMMPruner(model, CONVOLUTIONS, trainer, num_iterations=2, epochs_per_iteration=2, row=0.1, optimizer=optimizer
               ).compress()  # fmt: skip
    return model


def lottery(algorithm: str) -> Callable[[Share], nn.Module]:
    def case(share: Share) -> nn.Module:
        model = net()
        together, optimizer = share.together(model), sgd(model)
        entries = [{"sparsity": 0.6, "op_types": ["Conv2d"], "prune_iterations": 2}]
        pruner = LotteryTicketPruner(model, entries, optimizer, pruning_algorithm=algorithm)
        pruner.compress()
        for number in pruner.get_prune_iterations():
            pruner.prune_iteration_start()
            train(together, optimizer, share, seed=number)
        return model

    return case


PRUNERS: dict[str, Callable[[Share], nn.Module]] = {
    "level": at_once(lambda model, entries, dummy_input: LevelPruner(model, entries), WEIGHTS),
    "l1": at_once(L1FilterPruner),
    "l2": at_once(L2FilterPruner),
    "fpgm": at_once(FPGMPruner),
    "taylor": watching(TaylorFOWeightFilterPruner),
    "taylor global": watching(TaylorFOWeightFilterPruner, mode="global"),
    "taylor by step()": told_steps,
    "taylor of activations": watching(TaylorFOActivationFilterPruner),
    "apoz": watching(ActivationAPoZRankFilterPruner),
    "mean activation": watching(ActivationMeanRankFilterPruner),
    "hessian": second_order,
    "agp level": epochs("level"),
    "agp l1": epochs("l1"),
    "agp taylor": epochs("taylorfo"),
    "agp apoz": epochs("apoz"),
    "movement": movement,
    "slim": slim,
    "admm": admm,
    "lottery": lottery("level"),
    "lottery by mean activation": lottery("mean_activation"),
}
