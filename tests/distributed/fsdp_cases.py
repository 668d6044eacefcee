"""What a sharded model is asked for, besides the cases that DDP goes through as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
)

from tests.distributed.share import (
    CONVOLUTIONS,
    EVERYTHING,
    WEIGHTS,
    Share,
    net,
    sgd,
    train,
)
from torchpare.pruning import AGPPruner, L1FilterPruner, LotteryTicketPruner, TaylorFOWeightFilterPruner
from torchpare.quantization import QAT_Quantizer

__all__ = ["BEFORE", "EXAMPLE", "gathered", "masked_and_quantized", "whole_weights"]

EXAMPLE = torch.zeros(2, 1, 6, 6)
FULL = StateDictOptions(full_state_dict=True)


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """The whole state, in every process."""
    return {key: value.clone() for key, value in get_model_state_dict(model, options=FULL).items()}


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All parameters, whole."""
    return {name: value for name, value in gathered(model).items() if name in dict(model.named_parameters())}


# --------------------------------------------------------------------- compressed first, with masks that change later


def taylor_told(share: Share) -> nn.Module:
    """Gradients are watched in parameters that were not there yet when watching began."""
    model = net()
    pruner = TaylorFOWeightFilterPruner(model, CONVOLUTIONS, sparsifying_training_batches=2, dummy_input=EXAMPLE)
    pruner.compress()
    together = share.together(model)
    train(together, sgd(model), share, after=pruner.step)
    return model


def taylor_following(share: Share) -> nn.Module:
    """An optimizer that could only be made behind ``fully_shard`` is followed."""
    model = net()
    pruner = TaylorFOWeightFilterPruner(model, CONVOLUTIONS, sparsifying_training_batches=2, dummy_input=EXAMPLE)
    pruner.compress()
    together = share.together(model)
    optimizer = sgd(model)
    pruner.follow(optimizer)
    train(together, optimizer, share)
    return model


def agp_before(algorithm: str, entries: Any) -> Callable[[Share], nn.Module]:
    def case(share: Share) -> nn.Module:
        model = net()
        pruner = AGPPruner(model, entries, num_iterations=3, pruning_algorithm=algorithm, dummy_input=EXAMPLE)
        pruner.compress()
        together = share.together(model)
        optimizer = sgd(model)
        for epoch in range(4):
            pruner.update_epoch(epoch)
            train(together, optimizer, share, seed=epoch, after=pruner.step)
        return model

    return case


def rewound(share: Share) -> nn.Module:
    """The start was kept whole, and is written into pieces, though a pass without gradients has put these together."""
    model = net()
    entries = [{"sparsity": 0.6, "op_types": ["Conv2d"], "prune_iterations": 2}]
    pruner = LotteryTicketPruner(model, entries)
    pruner.compress()
    together = share.together(model)
    optimizer = sgd(model)
    for number in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        train(together, optimizer, share, number=2, seed=number)
        with torch.no_grad():
            together(EXAMPLE)
    return model


def folded(share: Share) -> nn.Module:
    """A weight is quantized as the norm behind it, which may be sharded by itself, will leave it."""
    model = net()
    QAT_Quantizer(model, [EVERYTHING], None, EXAMPLE).compress()
    together = share.together(model)
    train(together, sgd(model, 0.02), share)
    return model


def masked_and_quantized(share: Share) -> nn.Module:
    model = net()
    L1FilterPruner(model, CONVOLUTIONS, dummy_input=EXAMPLE).compress()
    QAT_Quantizer(model, [EVERYTHING]).compress()
    together = share.together(model)
    train(together, sgd(model, 0.02), share)
    return model


BEFORE: dict[str, Callable[[Share], nn.Module]] = {
    "taylor by step()": taylor_told,
    "taylor by follow()": taylor_following,
    "agp level": agp_before("level", WEIGHTS),
    "agp l1": agp_before("l1", CONVOLUTIONS),
    "agp taylor by step()": agp_before("taylorfo", CONVOLUTIONS),
    "agp apoz": agp_before("apoz", CONVOLUTIONS),
    "lottery": rewound,
    "qat folded": folded,
    "masked and quantized": masked_and_quantized,
}
"""Compressed before they are sharded."""
