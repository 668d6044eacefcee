"""What lies on top of each other lives and dies together."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.nets import free, image, net, same_fate, shrinks, why_not
from torchpare import plan


def two(run, **more):
    return net(run, a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(3, 5, 3, padding=1), c=nn.Conv2d(5, 2, 1), **more)


def inplace(m, x):
    y = m.a(x)
    y += m.b(x)
    return m.c(y.relu_())


SUMS = {
    "add": lambda m, x: m.c(m.a(x) + m.b(x)),
    "in place": inplace,
    "product": lambda m, x: m.c(m.a(x) * m.b(x)),
    "maximum": lambda m, x: m.c(torch.maximum(m.a(x), m.b(x))),
    "where": lambda m, x: m.c(torch.where(m.a(x) > 0, m.a(x), m.b(x))),
    "lerp": lambda m, x: m.c(torch.lerp(m.a(x), m.b(x), 0.3)),
    "addcmul": lambda m, x: m.c(torch.addcmul(m.a(x), m.b(x), m.b(x))),
}


@pytest.mark.parametrize("name", SUMS)
def test_two_layers_that_meet_lose_the_same_channels(name):
    model, x = two(SUMS[name]), image()
    assert same_fate(model, x, "a", "b")
    shrinks(model, x, {"a": [0, 3], "b": [0, 3]}, expect={"a": (3, 3), "b": (3, 3), "c": (2, 3)})


@pytest.mark.parametrize("name", SUMS)
def test_a_channel_that_one_of_them_keeps_stays(name):
    model, x = two(SUMS[name]), image()
    report = shrinks(model, x, {"a": [0, 3], "b": [3, 4]}, expect={"a": (4, 3), "b": (4, 3), "c": (2, 4)})
    assert any(set(item.layers) == {"a", "b"} for item in report.restored)


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Hardswish(),
    nn.SiLU(),
    nn.GELU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.Mish(), nn.Softplus(), nn.Tanh(), nn.Hardtanh(), nn.PReLU(),
    nn.PReLU(5),
    nn.Softsign(), nn.Hardshrink(), nn.Threshold(0.1, 0.2), nn.Dropout(), nn.Dropout2d(), nn.Identity(),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_an_activation_lets_channels_through(activation):
    model = net(lambda m, x: m.b(m.act(m.a(x))), a=nn.Conv2d(3, 5, 1), act=activation, b=nn.Conv2d(5, 2, 1))
    x = image()
    assert free(model, x, "a") == 5, why_not(model, x, "a")
    shrinks(model, x, {"a": [1, 2]}, expect={"a": (3, 3), "b": (2, 3)})


def force(activation):
    def run(m, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(m.b(activation(m.a(x))).sum(), x)[0]

    return run


@pytest.mark.parametrize(
    "activation",
    [F.elu, F.hardshrink, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.mish, F.softplus, F.softshrink],
)
def test_the_slope_of_an_activation_lets_channels_through(activation):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = net(force(activation), a=nn.Linear(3, 6), b=nn.Linear(6, 1))
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.largest_difference <= 1e-10
    assert report.output_change > 1e-6
    assert (model.a.out_features, model.b.in_features) == (3, 3)


def test_what_meets_the_input_stays():
    model = net(lambda m, x: m.b(m.a(x) + x), a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 2, 1))
    assert free(model, image(), "a") == 0
    assert "fixed" in why_not(model, image(), "a")


@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (5, 1, 1), (1,), ()])
def test_a_raw_parameter_follows_the_channels_it_scales(shape):
    model = net(
        lambda m, x: m.b(m.a(x) * m.scale),
        a=nn.Conv2d(3, 5, 1),
        b=nn.Conv2d(5, 2, 1),
        scale=nn.Parameter(torch.ones(shape)),
    )
    shrinks(model, image(), {"a": [0, 4]}, expect={"a": (3, 3), "b": (2, 3)})
    assert model.scale.shape == tuple(3 if size == 5 else size for size in shape)


def test_a_buffer_follows_the_channels_it_shifts():
    model = net(lambda m, x: m.b(m.a(x) * m.table.view(1, -1, 1, 1)), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    model.register_buffer("table", torch.arange(1.0, 6.0, dtype=torch.float64))
    shrinks(model, image(), {"a": [0, 4]}, expect={"a": (3, 3), "b": (2, 3)})
    assert model.table.tolist() == [2, 3, 4]


def test_a_tensor_that_no_module_holds_cannot_follow_and_freezes():
    loose = torch.ones(1, 5, 1, 1).double()
    model = net(lambda m, x: m.b(m.a(x) + loose), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1))
    assert free(model, image(), "a") == 0
    assert "fixed" in why_not(model, image(), "a")


def test_a_gate_of_linear_layers_is_tied_to_what_it_gates():
    def gate(m, x):
        x = m.a(x)
        b, c, _, _ = x.size()
        y = m.up(torch.relu(m.down(F.adaptive_avg_pool2d(x, 1).view(b, c)))).view(b, c, 1, 1)
        return m.b(x * torch.sigmoid(y).expand_as(x))

    model = net(gate, a=nn.Conv2d(3, 6, 1), down=nn.Linear(6, 4), up=nn.Linear(4, 6), b=nn.Conv2d(6, 2, 1))
    x = image()
    assert same_fate(model, x, "a", "up")
    shrinks(
        model,
        x,
        {"a": [1, 2], "up": [1, 2], "down": [3]},
        expect={"a": (4, 3), "down": (3, 4), "up": (4, 3), "b": (2, 4)},
    )


def test_writing_into_a_slice_keeps_both_together():
    def run(m, x):
        y = m.a(x)
        y[:, :2] += m.b(x)
        return m.c(y)

    model = net(run, a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(3, 2, 1), c=nn.Conv2d(5, 2, 1))
    x = image()
    assert free(model, x, "b") == 0  # the end of the slice is typed as a number
    shrinks(model, x, {"a": [4]}, expect={"a": (4, 3), "c": (2, 4)})


def test_glu_halves_the_channels_pairwise():
    model = net(lambda m, x: m.b(F.glu(m.a(x), dim=1)), a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(3, 2, 1))
    shrinks(model, image(), {"a": [1, 4]}, expect={"a": (4, 3), "b": (2, 2)})
