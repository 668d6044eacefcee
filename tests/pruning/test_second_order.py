"""Filters without which the loss grows least, by the Hessian's diagonal."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from tests.pruning.training import Small, batches, train
from torchpare import ModelSpeedup
from torchpare.attach import is_attached, masks_of
from torchpare.attach.curvature import CurvatureWatch
from torchpare.errors import ConfigError, MaskError
from torchpare.pruning import AGPPruner, HessianFilterPruner

HALF = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]


def small(seed=0):
    torch.manual_seed(seed)
    model = Small()
    return model, torch.optim.SGD(model.parameters(), lr=0.05)


def hessian(model, x, y):
    """Of the loss by the weights of both convolutions, whole, by the obvious means."""
    parts = {"a.weight": model.a.weight.detach(), "b.weight": model.b.weight.detach()}
    sizes = [part.numel() for part in parts.values()]

    def loss(flat):
        pieces = dict(zip(parts, flat.split(sizes), strict=True))
        weights = {name: piece.view(parts[name].shape) for name, piece in pieces.items()}
        return functional.cross_entropy(functional_call(model, weights, (x,)), y)

    return torch.autograd.functional.hessian(loss, torch.cat([part.flatten() for part in parts.values()]))


def test_the_estimate_is_signs_times_the_hessian_of_all_layers_times_signs():
    model, _ = small()
    model.double().eval()
    x, y = batches()[0]
    x = x.double()
    full = hessian(model, x, y)
    seen = {}
    layers = {"a": model.a, "b": model.b}
    watch = CurvatureWatch(layers, lambda name, weight, curvature: seen.setdefault(name, curvature), 3,
                           torch.Generator().manual_seed(5))  # fmt: skip
    watch.see(functional.cross_entropy(model(x), y))
    draw, expected = torch.Generator().manual_seed(5), torch.zeros(72 + 576, dtype=torch.float64)
    for _ in range(3):
        signs = torch.cat([2.0 * torch.randint(0, 2, shape, generator=draw).flatten() - 1
                           for shape in (model.a.weight.shape, model.b.weight.shape)]).double()  # fmt: skip
        expected += signs * (full @ signs) / 3
    torch.testing.assert_close(torch.cat([seen["a"].flatten(), seen["b"].flatten()]), expected)


def test_with_many_probes_the_filters_that_go_are_those_of_the_true_diagonal():
    model, optimizer = small()
    for epoch in range(6):
        train(model, optimizer, epoch=epoch)
    model.eval()
    x, y = batches()[0]
    diagonal = hessian(model, x, y).diagonal()[72:].view(8, -1)
    growth = (diagonal * model.b.weight.detach().flatten(1).square()).sum(1) / 2
    pruner = HessianFilterPruner(model, [{"sparsity": 0.5, "op_names": ["b"]}], probes=300)
    pruner.compress()
    pruner.observe(functional.cross_entropy(model(x), y))
    pruner.step()
    gone = set((~masks_of(model)["b"]["weight"].flatten()).nonzero().flatten().tolist())
    assert gone == set(growth.argsort()[:4].tolist())


def test_a_trainer_is_handed_a_criterion_that_is_watched():
    model, optimizer = small()
    called = []

    def criterion(output, y):
        called.append(len(y))
        return functional.cross_entropy(output, y)

    pruner = HessianFilterPruner(model, HALF, optimizer, train, criterion, 2)
    pruner.compress()
    assert called == [8] * 4
    assert pruner.get_pruned_weights() == {"a": (4, 8), "b": (4, 8)}


def test_a_trainer_that_does_not_call_its_criterion_is_told():
    def trainer(model, optimizer, criterion, epoch):
        train(model, optimizer, None, epoch)

    model, optimizer = small()
    with pytest.raises(MaskError, match="no minibatch has reached a"):
        HessianFilterPruner(model, HALF, optimizer, trainer).compress()
    assert not is_attached(model)


class Squares(torch.autograd.Function):
    """Squares whose gradient has no gradient, as of a kernel written by hand."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def test_a_loss_that_cannot_be_differentiated_twice_is_told():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
    pruner = HessianFilterPruner(model, HALF)
    pruner.compress()
    outputs = model(batches()[0][0])
    cubes = outputs * Squares.apply(outputs)
    with pytest.raises(MaskError, match=r"differentiated twice: .*once_differentiable"):
        pruner.observe(cubes.sum())


def test_it_ranks_for_gradual_pruning():
    model, optimizer = small()
    AGPPruner(model, HALF, optimizer, train, None, num_iterations=3, pruning_algorithm="hessian").compress()
    assert int(masks_of(model)["a"]["weight"].sum()) == 4


def test_prune_train_shrink():
    model, optimizer = small()
    x = torch.ones(2, 1, 6, 6)
    HessianFilterPruner(model, HALF, optimizer, train, dummy_input=x).compress()
    train(model, optimizer, epoch=1)
    assert ModelSpeedup(model, x).speedup_model().exact
    assert model.b.weight.shape == (4, 4, 3, 3)


@pytest.mark.parametrize(
    ("options", "message"), [({"probes": 0}, "above 0"), ({"criterion": 3}, "a function that returns the loss")]
)
def test_arguments_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        HessianFilterPruner(nn.Sequential(nn.Conv2d(1, 4, 3)), HALF, **options)


def test_losses_add_up():
    layer = nn.Linear(2, 3, bias=False)
    watch = CurvatureWatch({"layer": layer}, lambda _, weight, curvature: (weight.square() * curvature).sum(1) / 2, 1,
                           torch.Generator().manual_seed(0))  # fmt: skip
    bends = torch.tensor([[1.0, 2.0], [0.5, 3.0], [4.0, 0.25]])
    for factor in (1.0, 10.0):  # of which the Hessian is diagonal, so that any signs give it exactly
        watch.see((factor * bends * layer.weight.square()).sum())
    expected = (11 * bends * layer.weight.detach().square()).sum(1)
    torch.testing.assert_close(watch.sums["layer"], expected)
    assert watch.batches == 2
