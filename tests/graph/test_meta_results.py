"""What is remembered is what torch says, and only of operators that make new tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torchpare.graph.meta_results import MetaResults


class Both(TorchDispatchMode):
    """Runs every operator twice, asking torch first and then what is remembered of it."""

    def __init__(self):
        super().__init__()
        self.results, self.calls, self.repeated = MetaResults(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = len(self.results._known)
        got = self.results(func, args, kwargs or {})
        if not func._schema.is_mutable:
            expected = func(*args, **(kwargs or {}))
            for mine, theirs in zip(pytree.tree_leaves(got), pytree.tree_leaves(expected), strict=True):
                assert (mine.shape, mine.stride(), mine.dtype, mine.device) == (
                    theirs.shape,
                    theirs.stride(),
                    theirs.dtype,
                    theirs.device,
                )
        self.calls += 1
        self.repeated += len(self.results._known) == known
        return got


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(3)
        )
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        y = x.flatten(2).transpose(1, 2)
        for _ in range(2):
            y = self.layer(y)
        values, index = y.topk(3, dim=1)
        return F.gelu(values).mean((1, 2), keepdim=True), index, y.argmax(-1), torch.cat([y, y], 1).std(1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_remembered_is_what_torch_says(layout):
    model = Blocks().to("meta").eval()
    with torch.no_grad(), Both() as mode:
        model(torch.randn(2, 8, 6, 6, device="meta").to(memory_format=layout))
    assert mode.repeated > 40


def test_values_and_views_are_never_remembered():
    results, x = MetaResults(), torch.arange(6.0)
    assert results(torch.ops.aten.neg.default, (x,), {}).tolist() == (-x).tolist()
    assert results(torch.ops.aten.neg.default, (2 * x,), {})[1] == -2
    m = torch.empty(2, 3, device="meta")
    for _ in range(2):
        args = (m, [3, 2])
        view = results(torch.ops.aten.view.default, args, {})
        assert view.untyped_storage()._cdata == m.untyped_storage()._cdata
    for scale in (1, 1.0, True):  # equal as keys, and not the same
        args = (torch.ones(2, dtype=torch.int64, device="meta"), scale)
        expected = torch.mul(*args)
        got = results(torch.ops.aten.mul.Scalar, args, {})
        assert got.dtype == expected.dtype
