"""What torchpare's pruners stand beside in benchmarks/pruners.py: other tools, and algorithms written out without it.

The latter tell an algorithm's own weakness from a fault of ours. They leave everything where it is, silenced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from benchmarks.digits_nets import Budget

__all__ = [
    "apoz_by_hand",
    "movement_by_hand",
    "slim_by_hand",
    "torch_pruning",
    "torch_structured",
    "torch_unstructured",
]


def torch_structured(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """``torch.nn.utils.prune.ln_structured``: filters of each convolution are zero, and stay where they are."""
    del example
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            prune.ln_structured(layer, "weight", amount=int(layer.out_channels * sparsity), n=1, dim=0)
    budget.spend(model)
    return model


def torch_unstructured(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """``torch.nn.utils.prune.l1_unstructured``: the smallest weights of each layer."""
    del example
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(layer, "weight", amount=sparsity)
    budget.spend(model)
    return model


def torch_pruning(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Torch-Pruning's group magnitude pruner: filters are gone before the fine-tuning."""
    import torch_pruning as tp  # type: ignore[reportMissingImports] - installed by `make bench` alone

    head: list[nn.Module] = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    tp.pruner.BasePruner(
        model, example, importance=tp.importance.GroupMagnitudeImportance(p=1), pruning_ratio=sparsity,
        ignored_layers=head,
    ).step()  # fmt: skip
    budget.spend(model)
    return model


def slim_by_hand(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Network slimming: one threshold for the scales of all norms, and each keeps a channel at least."""
    del example
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]

    def penalise(*_: Any) -> None:
        for norm in norms:
            assert norm.weight.grad is not None
            norm.weight.grad += 1e-3 * norm.weight.detach().sign()

    optimizer = budget.optimizer(model)
    optimizer.register_step_pre_hook(penalise)
    for _ in range(budget.epochs // 2):
        budget.trainer(model, optimizer)
    sizes = [norm.weight.detach().abs() for norm in norms]
    threshold = torch.cat(sizes).sort().values[int(sum(map(len, sizes)) * sparsity) - 1]
    keeps = [(size > threshold) | (size == size.max()) for size in sizes]

    _train_silenced(model, budget, dict(zip(norms, keeps, strict=True)))
    return model


def apoz_by_hand(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Filters go that fire least often on all pictures for training; of a net without norms."""
    del example
    fires: dict[nn.Module, torch.Tensor] = {}

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        fires[layer] = (output.detach() > 0).double().mean(dim=(0, 2, 3))

    handles = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    model.eval()(budget.data.train_pictures)
    for handle in handles:
        handle.remove()
    keeps = {layer: torch.ones(len(share)).bool() for layer, share in fires.items()}
    for layer, share in fires.items():
        keeps[layer][share.argsort()[: int(len(share) * sparsity)]] = False
    _train_silenced(model, budget, keeps)
    return model


class _Highest(torch.autograd.Function):
    """Ones where the highest scores are; its gradient is theirs, as if it were the scores."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, drop: int) -> torch.Tensor:  # noqa: ARG004 - torch gives it
        mask = torch.ones_like(scores)
        mask.view(-1)[scores.flatten().argsort()[:drop]] = 0
        return mask

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override] # noqa: ARG004
        return grad, None


class _Moved(nn.Module):
    """A weight times the mask of its scores."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.scores, self.drop = nn.Parameter(torch.zeros_like(weight)), 0

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * _Highest.apply(self.scores, self.drop)


def movement_by_hand(model: nn.Module, sparsity: float, budget: Budget, example: Any) -> nn.Module:
    """Movement pruning by torch's parametrizations: scores learn straight through the mask of the highest ones."""
    del example
    optimizer = budget.optimizer(model)  # of the weights, before there are scores
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    moved = [_Moved(layer.weight.detach()) for layer in layers]
    for layer, mask in zip(layers, moved, strict=True):
        parametrize.register_parametrization(layer, "weight", mask)
    learner = torch.optim.Adam([mask.scores for mask in moved], lr=1e-2)
    batches = len(budget.data.train_digits) // 64
    steps = 0

    def learn(*_: Any) -> None:
        nonlocal steps
        learner.step()
        learner.zero_grad()
        steps += 1
        progress = (steps - batches) / (batches * budget.epochs // 2 - batches)
        share = sparsity * (1 - (1 - min(1.0, max(0.0, progress))) ** 3)
        for mask in moved:
            mask.drop = int(mask.scores.numel() * share)

    optimizer.register_step_pre_hook(learn)
    while budget.used < budget.epochs:
        budget.trainer(model, optimizer)
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")  # and the zeros stay
    return model


def _train_silenced(model: nn.Module, budget: Budget, keeps: dict[Any, torch.Tensor]) -> None:
    """Spend the epochs that are left; weights and biases of what does not stay are zero all the time."""

    @torch.no_grad()
    def silence(*_: Any) -> None:
        for layer, keep in keeps.items():
            layer.weight *= keep.view(-1, *[1] * (layer.weight.dim() - 1))
            layer.bias *= keep

    silence()
    optimizer = budget.optimizer(model)
    optimizer.register_step_post_hook(silence)
    while budget.used < budget.epochs:
        budget.trainer(model, optimizer)
