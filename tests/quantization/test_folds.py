"""A batch norm is folded where it reads what the layer returned, and nothing in between has touched that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchpare.attach import quantizers_of
from torchpare.quantization import QAT_Quantizer

ENTRY = {"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["default"]}


class TwoNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.one(y) + self.other(y)


class ReadTwice(nn.Module):
    """What the convolution returns is read by the norm, and in another way too."""

    def __init__(self, other: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.norm, self.relu, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), other

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.other(y, self.relu(self.norm(y)))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


IMAGE, TOKENS = torch.randn(2, 3, 6, 6), torch.arange(4)
NETS = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), IMAGE, ["0"]),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)), IMAGE, ["0"]),
    "identity": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.BatchNorm2d(4)), IMAGE, ["0"]),
    "relu": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), IMAGE, []),
    "relu in place": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.BatchNorm2d(4)), IMAGE, []),
    "two norms": (TwoNorms, IMAGE, []),
    "an addition reads it too": (lambda: ReadTwice(lambda y, z: y + z), IMAGE, []),
    "its mean is read too": (lambda: ReadTwice(lambda y, z: z * y.mean()), IMAGE, []),
    "part of it is read too": (lambda: ReadTwice(lambda y, z: z[:, :2] + y[:, :2]), IMAGE, []),
    "it is returned too": (lambda: ReadTwice(lambda y, z: {"features": [y], "out": z}), IMAGE, []),
    "its shape is read": (lambda: ReadTwice(lambda y, z: z.reshape(y.shape[0], -1)), IMAGE, ["conv"]),
    "rows": (Linear, torch.randn(3, 4), ["layer"]),
    "texts whose places the norm takes for channels": (Linear, torch.randn(2, 5, 4), []),
    "embedding": (lambda: nn.Sequential(nn.Embedding(10, 6), nn.BatchNorm1d(6)), TOKENS, []),
}


@pytest.mark.parametrize("name", NETS)
def test_only_a_norm_directly_behind_is_folded(name):
    make, x, folded = NETS[name]
    model = make()
    quantizer = QAT_Quantizer(model, [ENTRY], dummy_input=x)
    assert list(quantizer.folded) == folded
    quantizer.compress()
    model(x)
    at = {path: type(layer).__name__.startswith("BatchNorm") for path, layer, kind, _ in quantizers_of(model)
          if kind == "output"}  # fmt: skip
    assert all(norm == bool(folded) for norm in at.values())


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_a_norm_in_float32_behind_weights_in_half_precision_is_folded(scheme):
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3).bfloat16(), nn.BatchNorm2d(4))
    x = IMAGE.bfloat16()
    entry = {**ENTRY, "quant_types": ["weight"], "quant_scheme": scheme}
    quantizer = QAT_Quantizer(model, [entry], dummy_input=x)
    assert list(quantizer.folded) == ["0"]
    quantizer.compress()
    model(x).sum().backward()
    assert model[0].weight.dtype == model[0].old_weight.grad.dtype == torch.bfloat16
