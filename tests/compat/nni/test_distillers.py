"""Distillers of NNI 3: what is added to the loss, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nni.compression import TorchEvaluator
from nni.compression.distillation import Adaptive1dLayerwiseDistiller, DynamicLayerwiseDistiller
from nni.compression.pruning import L1NormPruner
from nni.compression.speedup import ModelSpeedup
from torch import nn

from torchpare.errors import CompatError, ConfigError

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 3))


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def evaluator(model, step=training_step, lr=0.05):
    losses = []

    def training_func(model, optimizer, training_step, lr_scheduler, max_steps, max_epochs):
        for _ in range(max_steps or 1):
            optimizer.zero_grad()
            returned = training_step((X, Y), model)
            loss = returned if isinstance(returned, torch.Tensor) else returned["loss" if "loss" in returned else 0]
            losses.append(float(loss.detach()))
            loss.backward()
            optimizer.step()

    found = TorchEvaluator(training_func, torch.optim.SGD(model.parameters(), lr=lr), training_step=step)
    return found, losses


def test_what_is_added_is_the_distance_of_layers_times_lambda():
    student, teacher = net(0), net(1)
    with torch.no_grad():
        hidden = F.mse_loss(student[:3](X), teacher[:3](X))
        own, its = student(X), teacher(X)
        soft = 4 * F.kl_div(F.log_softmax(own / 2, 1), F.softmax(its / 2, 1), reduction="batchmean")
        expected = 0.25 * F.cross_entropy(own, Y) + 0.5 * hidden + 2.0 * soft
    config_list = [
        {"op_types": ["Conv2d"], "exclude_op_names": ["0"], "target_names": ["_output_0"], "lambda": 0.5},
        {"op_names": ["4"], "lambda": 2.0, "apply_method": "kl", "link": "auto"},
    ]
    trains, losses = evaluator(student)
    distiller = DynamicLayerwiseDistiller(
        student, config_list, trains, teacher, lambda batch, teacher: teacher(batch[0]), origin_loss_lambda=0.25
    )
    model, kinds = distiller.compress(max_steps=1, max_epochs=None)
    assert model is student
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)
    assert set(kinds) == {"hidden_states", "soft_outputs"}


def test_a_copy_has_nothing_to_learn():
    student = net()
    trains, losses = evaluator(student, lr=0.0)
    DynamicLayerwiseDistiller(
        student, [{"op_names": ["2", "4"]}], trains, net(), origin_loss_lambda=0.0
    ).compress(max_steps=2)  # fmt: skip
    assert losses == [0.0, 0.0]


def test_a_shrunk_student_comes_nearer_to_its_teacher():
    student, teacher = net(), net().eval()
    _, masks = L1NormPruner(student, [{"op_names": ["0"], "sparse_ratio": 0.5}]).compress()
    student = ModelSpeedup(student, X, masks).speedup_model()
    assert student[0].out_channels == 4
    trains, losses = evaluator(student, lr=0.02)
    step = trains.criterion
    config_list = [{"op_names": ["0"], "lambda": 1.0}, {"op_names": ["4"], "apply_method": "kl"}]
    Adaptive1dLayerwiseDistiller(
        student, config_list, trains, teacher, origin_loss_lambda=0.0
    ).compress(max_steps=20)  # fmt: skip
    assert losses[-1] < 0.7 * losses[0]
    assert trains.criterion is step
    assert not student._forward_hooks


@pytest.mark.parametrize("wrap", [lambda loss: (loss, "more"), lambda loss: {"loss": loss, "more": 1}])
def test_steps_may_return_more_than_a_loss(wrap):
    student = net()
    trains, losses = evaluator(student, lambda batch, model: wrap(training_step(batch, model)))
    DynamicLayerwiseDistiller(student, [{"op_names": ["4"]}], trains, net(1)).compress(max_steps=1)
    with torch.no_grad():
        expected = F.cross_entropy(net()(X), Y) + F.mse_loss(net()(X), net(1)(X))
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_a_layer_learns_from_the_one_that_it_is_linked_to():
    student, teacher = net(), nn.Sequential(*net(1), nn.Identity())
    trains, losses = evaluator(student)
    DynamicLayerwiseDistiller(
        student, [{"op_names": ["4"], "link": "5"}], trains, teacher, origin_loss_lambda=0.0
    ).compress(max_steps=1)  # fmt: skip
    with torch.no_grad():
        assert losses[0] == pytest.approx(float(F.mse_loss(net()(X), net(1)(X))), rel=1e-5)


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ({"target_names": ["weight"]}, CompatError, "'weight' cannot be learnt from here"),
        ({"link": ["2", "4"]}, CompatError, "names 2 layers; here a layer learns from one"),
        ({"apply_method": "cosine"}, CompatError, "it is 'mse' or 'kl'"),
        ({"weight": 3}, ConfigError, r"config_list\[0\]\['weight'\]: there is no such key"),
        ({"link": "9"}, ConfigError, "9"),
        ({"lambda": -1}, ConfigError, "weight is -1"),
    ],
)
def test_what_is_asked_of_no_layer_is_refused(entry, error, message):
    student = net()
    with pytest.raises(error, match=message):
        DynamicLayerwiseDistiller(student, [{"op_names": ["4"], **entry}], evaluator(student)[0], net(1))
    assert not student._forward_hooks
    assert not student[4]._forward_hooks


def test_who_trains_has_a_step_that_returns_a_loss():
    student = net()
    with pytest.raises(CompatError, match="give it a TorchEvaluator with one"):
        DynamicLayerwiseDistiller(student, [{"op_names": ["4"]}], None, net(1))
    trains, _ = evaluator(student, lambda batch, model: str(model(batch[0])))
    with pytest.raises(ConfigError, match="the training step returned a str"):
        DynamicLayerwiseDistiller(student, [{"op_names": ["4"]}], trains, net(1)).compress(max_steps=1)
    with pytest.raises(ConfigError, match="config_list is no list of dicts"):
        DynamicLayerwiseDistiller(student, {}, trains, net(1))
