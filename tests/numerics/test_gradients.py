"""Gradients against the formulas of the papers, written out value by value."""

from __future__ import annotations

import math

import pytest
import torch

from torchpare.numerics.affine import Grid, fake_quantize
from torchpare.numerics.gradients import (
    binarize,
    dorefa_activation,
    dorefa_weight,
    lsq,
    lsq_plus,
    lsq_start,
    pact,
    whole_offset,
)

ZERO = torch.tensor(0, dtype=torch.int32)


def data(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("channels", [False, True])
def test_lsq_has_the_gradient_of_its_paper(bits, channels, generator):
    grid = Grid(bits, signed=True)
    x, g = data(generator, 4, 9), torch.randn(4, 9, generator=generator, dtype=torch.float64)
    scale = torch.full((4, 1) if channels else (), 0.3, dtype=torch.float64, requires_grad=True)
    y = lsq(x, scale, ZERO, grid)
    assert torch.equal(y, fake_quantize(x.detach(), scale.detach(), ZERO, grid))
    of_x, of_scale = torch.autograd.grad((y * g).sum(), (x, scale))
    per_step = [[0.0] * 9 for _ in range(4)]
    for i in range(4):
        for j in range(9):
            ratio = float(x.detach()[i, j]) / 0.3
            if ratio <= grid.qmin:
                slope, passes = grid.qmin, False
            elif ratio >= grid.qmax:
                slope, passes = grid.qmax, False
            else:
                slope, passes = round(ratio) - ratio, True
            per_step[i][j] = slope * float(g[i, j])
            assert float(of_x[i, j]) == (float(g[i, j]) if passes else 0)
    expected = torch.tensor(per_step, dtype=torch.float64)
    expected = (
        expected.sum(1, keepdim=True) / math.sqrt(9 * grid.qmax)
        if channels
        else expected.sum() / math.sqrt(36 * grid.qmax)
    )
    torch.testing.assert_close(of_scale, expected)


def test_lsq_starts_where_its_paper_says():
    x = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    assert lsq_start(x, Grid(3, signed=True)) == pytest.approx(2 * 1 / math.sqrt(3))
    torch.testing.assert_close(lsq_start(x, Grid(3, signed=True), (1,)), torch.tensor([[4 / math.sqrt(3)], [1.0]]))


def test_lsq_plus_moves_its_offset_by_what_is_clipped_and_its_zero_point_is_whole(generator):
    grid = Grid(3)
    x, g = data(generator, 200), torch.randn(200, generator=generator, dtype=torch.float64)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    offset = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    zero_point = whole_offset(scale, offset, grid)
    assert (zero_point.item(), zero_point.dtype) == (2, torch.int32)
    y = lsq_plus(x, scale, offset, grid)
    assert torch.equal(y, fake_quantize(x.detach(), scale.detach(), zero_point, grid))
    of_x, of_scale, of_offset = torch.autograd.grad((y * g).sum(), (x, scale, offset))
    place = x.detach() / 0.3 + 2
    clipped = (place <= 0) | (place >= 7)
    factor = 1 / math.sqrt(200 * 7)
    assert torch.equal(of_x, g * ~clipped)
    torch.testing.assert_close(of_offset, (g * clipped).sum() * factor)
    slope = torch.where(clipped, place.clamp(0, 7), place.round() - place)
    torch.testing.assert_close(of_scale, (g * slope).sum() * factor)


@pytest.mark.parametrize("signed", [True, False])
def test_lsq_and_lsq_plus_have_the_gradient_of_clamp_and_round_written_out(signed, generator):
    grid, g = Grid(3, signed=signed), torch.randn(300, generator=generator, dtype=torch.float64)
    x = data(generator, 300)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    offset = torch.tensor(-0.6, dtype=torch.float64, requires_grad=True)

    def passed_through(value):
        return value + (value.round() - value).detach()

    written = [
        passed_through((x / scale).clamp(grid.qmin, grid.qmax)) * scale,
        passed_through(((x - offset) / scale).clamp(grid.qmin, grid.qmax)) * scale + offset,
    ]
    ours = [lsq(x, scale, ZERO, grid), lsq_plus(x, scale, offset, grid)]
    for y, expected, of in zip(ours, written, ((x, scale), (x, scale, offset)), strict=True):
        torch.testing.assert_close(y, expected)
        found, wanted = (torch.autograd.grad((value * g).sum(), of) for value in (y, expected))
        torch.testing.assert_close(found[0], wanted[0])
        for one, other in zip(found[1:], wanted[1:], strict=True):
            torch.testing.assert_close(one, other / math.sqrt(300 * grid.qmax))


def test_pact_hands_what_it_clips_to_alpha(generator):
    x, g = data(generator, 300), torch.randn(300, generator=generator, dtype=torch.float64)
    alpha = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    y = pact(x, alpha, Grid(4))
    torch.testing.assert_close(y, (x.clamp(0, 0.8) * 15 / 0.8).round() * 0.8 / 15)
    of_x, of_alpha = torch.autograd.grad((y * g).sum(), (x, alpha))
    assert torch.equal(of_x, g * ((x >= 0) & (x < 0.8)))
    torch.testing.assert_close(of_alpha, g[x >= 0.8].sum())


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_dorefa_weights_lie_on_even_levels_and_learn_through_tanh(bits, generator):
    w, g = data(generator, 5, 40), torch.randn(5, 40, generator=generator, dtype=torch.float64)
    y = dorefa_weight(w, bits)
    squashed = torch.tanh(w.detach())
    levels = 2**bits - 1
    expected = 2 * ((squashed / (2 * squashed.abs().max()) + 0.5) * levels).round() / levels - 1
    torch.testing.assert_close(y.detach(), expected, rtol=1e-6, atol=1e-7)
    (grad,) = torch.autograd.grad((y * g).sum(), w)
    torch.testing.assert_close(grad, g * (1 - squashed**2) / squashed.abs().max())


def test_one_bit_of_dorefa_is_a_sign_times_the_mean_and_passes_every_gradient(generator):
    w = data(generator, 50)
    y = dorefa_weight(w, 1)
    assert torch.equal(y.detach(), torch.where(w >= 0, 1.0, -1.0).double() * w.detach().abs().mean())
    (grad,) = torch.autograd.grad(y.sum(), w)
    assert torch.equal(grad, torch.full_like(grad, float(w.detach().abs().mean())))


def test_dorefa_activations_are_clipped_to_one(generator):
    x = data(generator, 300)
    y = dorefa_activation(x, 2)
    torch.testing.assert_close(y.detach(), (x.detach().clamp(0, 1) * 3).round() / 3, rtol=1e-6, atol=1e-7)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, ((x >= 0) & (x <= 1)).double())


def test_binary_values_are_signs_and_learn_where_they_are_small():
    x = torch.tensor([-2.0, -1.0, -0.1, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    assert binarize(x).tolist() == [-1, -1, -1, 1, 1, 1, 1]
    assert binarize(x, torch.tensor(0.5)).tolist() == [-0.5, -0.5, -0.5, 0.5, 0.5, 0.5, 0.5]
    for clipped, expected in ((True, [0, 1, 1, 1, 1, 1, 0]), (False, [1] * 7)):
        (grad,) = torch.autograd.grad(binarize(x, clipped=clipped).sum(), x)
        assert grad.tolist() == expected


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_dorefa_levels_of_doubles_are_doubles(bits, generator):
    top = 2**bits - 1
    steps = (dorefa_activation(torch.rand(500, generator=generator, dtype=torch.float64), bits) * top).double()
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-10)
