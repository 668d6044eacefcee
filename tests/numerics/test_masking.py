"""A masked value is the value times its mask, and so are its derivatives, whoever takes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.profiler import ProfilerActivity, profile

from torchpare.numerics.masking import masked

SHAPE = (4, 3, 2, 2)


def mask_of(kind):
    torch.manual_seed(0)
    return torch.rand(SHAPE if kind == "weights" else (SHAPE[0], 1, 1, 1)) < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["weights", "filters"])
def test_it_is_the_product_in_the_type_of_the_value(kind, dtype):
    value: Any = nn.Parameter(torch.randn(SHAPE).to(dtype))
    mask = mask_of(kind)
    found = masked(value, mask)
    assert found.dtype == dtype
    assert torch.equal(found, torch.where(mask, value, 0))
    upstream = torch.randn(SHAPE).to(dtype)
    found.backward(upstream)
    assert torch.equal(value.grad, torch.where(mask, upstream, 0))


@pytest.mark.parametrize("kind", ["weights", "filters"])
def test_derivatives_of_any_order_in_either_direction(kind):
    mask, value = mask_of(kind), torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda w: masked(w, mask).pow(3), value, check_forward_ad=True)
    assert gradgradcheck(lambda w: masked(w, mask).pow(3), value)
    with forward_ad.dual_level():
        dual = masked(forward_ad.make_dual(value, torch.ones_like(value)), mask)
        tangent: Any = forward_ad.unpack_dual(dual).tangent
        assert torch.equal(tangent, mask.double().expand(SHAPE))


def test_functional_transforms():
    mask, values = mask_of("weights"), torch.randn(5, *SHAPE)
    assert torch.equal(torch.vmap(masked, (0, None))(values, mask), values * mask)
    gradient = torch.vmap(torch.func.grad(lambda w: masked(w, mask).square().sum()))(values)
    torch.testing.assert_close(gradient, 2 * values * mask)


@pytest.mark.parametrize("given", ["channels_last", "transposed"])
def test_it_lies_in_memory_as_the_value_does(given):
    value, mask = torch.randn(SHAPE), mask_of("weights")
    value = value.to(memory_format=torch.channels_last) if given == "channels_last" else value.transpose(0, 3)
    mask = mask if given == "channels_last" else torch.rand(value.shape) < 0.5
    found = masked(value, mask)
    assert found.stride() == value.stride()
    assert torch.equal(found, value * mask)


def test_the_upstream_gradient_is_not_written_over():
    value, upstream = torch.randn(SHAPE, requires_grad=True), torch.ones(SHAPE)
    masked(value, mask_of("weights")).backward(upstream)
    assert upstream.min() == 1


def test_whoever_writes_operators_down_sees_the_plain_product():
    mask = mask_of("weights")
    traced: Any = torch.jit.trace(lambda w: masked(w, mask), (torch.randn(SHAPE),))
    assert {node.kind() for node in traced.graph.nodes()} <= {"prim::Constant", "aten::to", "aten::mul"}
    program = torch.export.export(_Masks(mask), (torch.randn(SHAPE),))
    assert any(node.target is torch.ops.aten.mul.Tensor for node in program.graph.nodes)


class _Masks(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = nn.Buffer(mask)

    def forward(self, value):
        return masked(value, self.mask)


def test_the_pass_back_keeps_a_byte_a_weight():
    value, kept = torch.randn(SHAPE, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda x: x):
        masked(value, mask_of("weights"))
    assert kept == [value.numel()]


def test_it_multiplies_over_the_mask_instead_of_beside_it():
    """What makes it fast: no bool is turned into a number one by one, and no second tensor of the size is made."""
    value, mask = torch.randn(SHAPE), mask_of("weights")
    with profile(activities=[ProfilerActivity.CPU]) as watch:
        masked(value, mask)
    names = {event.key for event in watch.key_averages()}
    assert "aten::mul_" in names
    assert "aten::mul" not in names
