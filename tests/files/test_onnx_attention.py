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
MASKS = ("none", "bool", "nothing takes part", "added", "nothing is left by adding", "causal")


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
    elif "add" in kind:
        options["attn_mask"] = torch.randn(length, 6, generator=generator, dtype=torch.float64)
        options["attn_mask"][2] = options["attn_mask"][2] if kind == "added" else -torch.inf
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


class Masked(Windows):
    """Attention in which everything takes part, or what comes in says what does."""

    def __init__(self, *, everything: bool) -> None:
        super().__init__()
        self.everything = everything

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
        seen = torch.ones(6, dtype=torch.bool).expand(x.shape[0], 1, 6, 6) if self.everything else (x[:, None, :1] > 0)
        mixed = F.scaled_dot_product_attention(q, k, v, seen[..., :6])
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], 6, 16))


@pytest.mark.parametrize("everything", [True, False])
def test_a_mask_in_which_everything_takes_part_is_not_in_the_file(tmp_path, everything):
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    model, x = Masked(everything=everything).eval(), torch.randn(1, 6, 16)
    made = export_onnx(model, tmp_path / "model.onnx", x)
    kinds = [node.op_type for node in onnx.load(str(made.path)).graph.node]
    assert ("Where" in kinds) is not everything
    assert "IsNaN" not in kinds  # which is how the exporter looks for rows in which nothing takes part
    assert kinds.count("Mul") == 1  # one factor, of the scores
    others = torch.randn(3, 6, 16)
    others[1] = -1.0  # nothing takes part there, if what comes in says it
    assert made.dynamic_batch
    assert check_onnx(model, made.path, others) < 1e-5


def test_attention_in_half_precision_scales_what_it_multiplies():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (60 * torch.randn(1, 2, 6, 64, generator=generator).half() for _ in range(3))
    k = q.clone()  # products of 230,000, which half precision does not hold; an eighth of it, it does
    torch.testing.assert_close(WRITE(q, k, v), F.scaled_dot_product_attention(q, k, v))


class Chooses(nn.Module):
    """A choice by a condition of one answer, which gives the result its shape."""

    def forward(self, x: Tensor) -> Tensor:
        condition = torch.ones(4, 1, dtype=torch.bool).expand(x.shape[0], 4, 1)
        return torch.where(condition, x, torch.zeros(())) + torch.where(condition.logical_not(), x, -x)


@pytest.mark.parametrize(("shape", "choices"), [((2, 4, 3), 0), ((2, 1, 3), 2)])
def test_a_choice_without_alternative_goes_where_the_shape_allows(tmp_path, shape, choices):
    onnx = pytest.importorskip("onnx")
    x = torch.randn(shape)
    made = export_onnx(Chooses().eval(), tmp_path / "model.onnx", x)
    assert [node.op_type for node in onnx.load(str(made.path)).graph.node].count("Where") == choices
    assert check_onnx(Chooses().eval(), made.path, torch.randn(5, *shape[1:])) < 1e-6
