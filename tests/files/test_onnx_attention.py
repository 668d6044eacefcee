"""Attention that the exporter does not know as one operator is written out, and is the same function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchpare.files.attention import WRITTEN_OUT
from torchpare.files.onnx import check_onnx, export_onnx

WRITE = WRITTEN_OUT[torch.ops.aten.scaled_dot_product_attention.default]
MASKS = ("none", "bool", "nothing takes part", "added", "causal")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(MASKS),
    groups=st.sampled_from([1, 2]),
    scale=st.sampled_from([None, 0.7]),
    lead=st.sampled_from([(), (2,), (2, 3)]),
)
def test_it_computes_what_the_operator_does(seed, kind, groups, scale, lead):
    generator = torch.Generator().manual_seed(seed)

    def random(heads, length, width):
        return torch.randn(*lead, heads, length, width, generator=generator, dtype=torch.float64)

    length, q, k, v = 5, random(2 * groups, 5, 4), random(2, 6, 4), random(2, 6, 3)
    mask = torch.rand(length, 6, generator=generator) < 0.7
    options = {"scale": scale, "enable_gqa": groups > 1}
    if kind == "causal":
        options["is_causal"] = True
    elif kind == "added":
        options["attn_mask"] = torch.randn(length, 6, generator=generator, dtype=torch.float64)
    elif kind != "none":
        mask[2] = kind == "bool"
        options["attn_mask"] = mask
    torch.testing.assert_close(WRITE(q, k, v, **options), F.scaled_dot_product_attention(q, k, v, **options))


class Windows(nn.Module):
    """Attention within windows, all in one call: five axes."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        q, k, v = self.qkv(x).view(n, 2, 3, 3, 2, 8).permute(3, 0, 1, 4, 2, 5)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(2, 3).reshape(n, 6, 16))


def test_attention_of_five_axes_is_exported_for_any_batch(tmp_path):
    model, x = Windows().eval(), torch.randn(1, 6, 16)
    made = export_onnx(model, tmp_path / "model.onnx", x)
    assert made.dynamic_batch
    assert check_onnx(model, made.path, torch.randn(3, 6, 16)) < 1e-5


def test_what_the_exporter_knows_stays_one_operator(tmp_path):
    onnx = pytest.importorskip("onnx")

    class Plain(Windows):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).view(x.shape[0], 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 6, 16))

    made = export_onnx(Plain().eval(), tmp_path / "model.onnx", torch.randn(1, 6, 16), opset_version=23)
    assert "Attention" in {node.op_type for node in onnx.load(str(made.path)).graph.node}
