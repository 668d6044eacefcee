"""Experts that run together in one grouped matrix product."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.networks.experts import network
from tests.networks.oracles import relative
from torchpare import ModelSpeedup, plan
from torchpare.speedup.float64_kernels import grouped_product


def _has_kernel() -> bool:
    """Whether this torch multiplies by groups on the CPU; older ones do not."""
    try:
        torch._grouped_mm(torch.ones(8, 8), torch.ones(1, 8, 8), offs=torch.tensor([8], dtype=torch.int32))
    except (AttributeError, NotImplementedError):  # no such operator, or none for this device; anything else is a fault
        return False
    return True


pytestmark = pytest.mark.skipif(not _has_kernel(), reason="this torch has no grouped product on the CPU")

ALL = [{"sparsity": 0.5, "structures": ["all"]}]


def test_the_reference_is_a_product_for_each_group():
    rows, weights = torch.randn(7, 4), torch.randn(3, 4, 5)
    ends = torch.tensor([2, 2, 7], dtype=torch.int32)  # the second group has no rows
    expected = torch.cat([rows[:2] @ weights[0], rows[2:] @ weights[2]])
    torch.testing.assert_close(grouped_product(rows, weights, ends), expected)
    aligned = torch.randn(7, 8), torch.randn(3, 8, 16)
    torch.testing.assert_close(grouped_product(*aligned, ends), torch._grouped_mm(*aligned, offs=ends))


def test_experts_and_what_feeds_them_get_narrower():
    model, x = network()
    found = plan(model, ALL, x)
    assert {group.kind: group.after for group in found.groups} == {"channels": 16, "experts_width": 16}
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in ((f"{m}.{p}", mask) for m, own in found.masks().items() for p, mask in own.items()):
            masked.get_parameter(name).mul_(mask)
    report = found.apply()
    assert report.exact
    assert report.largest_difference <= 1e-10
    assert model[1].up.shape == (3, 32, 16)
    assert relative(masked(x).detach(), model(x).detach()) < 1e-5
    model.train()(x).sum().backward()


@pytest.mark.parametrize(("width", "inner"), [(24, 20), (40, 36), (16, 8)])
def test_widths_stay_such_that_the_kernel_runs(width, inner):
    model, x = network(width=width, inner=inner)
    plan(model, ALL, x).apply()
    assert model[1].up.shape[2] % 8 == 0
    assert model[1].down.shape[2] % 4 == 0
    model(x)
    model.bfloat16()(x.bfloat16())


def test_masks_too_are_reconciled_to_such_widths():
    model, x = network(width=40)
    gone = torch.arange(40) < 17
    masks = {
        "0": {"weight": ~gone[:, None], "bias": ~gone},
        "1": {"down": ~gone[None, :, None]},
        "2": {"weight": ~gone[None, :]},
    }
    ModelSpeedup(model, x, masks).speedup_model()
    assert model[0].out_features == 24
    model(x)
