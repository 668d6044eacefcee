"""Steps, offsets and bounds that are learnt, in a model whose weights ``fully_shard`` puts in pieces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchpare.attach.quantized import quantizers_of
from torchpare.attach.ranks import mean_over_ranks

__all__ = ["learned_grids"]


def learned_grids(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of grids that are learnt, for ``fully_shard(model, ignored_params=learned_grids(model))``.

    A number cannot be sharded, and it starts from the first batch, in the middle of a pass. So every process keeps each
    of them whole. From this call on their gradients are averaged over the processes as soon as they are computed, which
    ``fully_shard`` does for the others.

    Args:
        model: quantized; DDP needs none of this.

    Returns:
        The parameters; none, where nothing is learnt but weights.
    """
    found = {parameter for _, _, _, quantizer in quantizers_of(model) for parameter in quantizer.parameters()}
    for parameter in found:
        hooks = parameter._post_accumulate_grad_hooks or {}  # noqa: SLF001 - to ask twice is to ask once
        if _averaged not in hooks.values():
            parameter.register_post_accumulate_grad_hook(_averaged)
    return found


@torch.no_grad()
def _averaged(parameter: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad = mean_over_ranks(parameter.grad, parameter.grad)
