"""Products of few columns and many factors, which OpenVINO's integer kernels get wrong: in float they are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.runtimes import ModelSpeedupOpenVINO, verify
from torchpare.runtimes.openvino_products import with_small_products_in_float
from torchpare.runtimes.verify import snr

openvino = pytest.importorskip("openvino")


class Attends(nn.Module):
    """Attention of so many tokens with each other, or of so many channels."""

    def __init__(self, width: int, heads: int = 2, *, channels: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.channels = heads, channels
        self.q, self.k, self.v, self.out = (nn.Linear(heads * width, heads * width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        if self.channels:
            q, k, v = (each.transpose(2, 3) for each in (F.normalize(q, dim=2), F.normalize(k, dim=2), v))
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v
        mixed = mixed.transpose(2, 3) if self.channels else mixed
        return self.out(mixed.transpose(1, 2).flatten(2))


def compressed(model: nn.Module, tokens: int, width: int) -> tuple[ModelSpeedupOpenVINO, Tensor]:
    batches = list(torch.randn(3, 2, tokens, 2 * width, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(model.eval(), dummy_input=batches[0], calib_data_loader=batches, threads=1)
    made.compress()
    return made, batches[0]


@pytest.mark.parametrize(
    ("tokens", "width", "channels"),
    [(5, 128, False), (32, 65, False), (1, 96, False), (196, 32, True), (33, 65, False), (32, 64, False)],
)
def test_the_numbers_are_those_of_the_program(tokens, width, channels):
    made, x = compressed(Attends(width, channels=channels), tokens, width)
    assert {"query", "key"} <= {site.name for site in made.made().sites}
    for _ in range(3):
        assert snr(made.made()(x), made.inference(x)[0]) > 40
    assert verify(made, x).ok


@pytest.mark.parametrize(
    ("tokens", "width", "floats"), [(32, 65, 1), (33, 65, 0), (32, 64, 0), ("open", 65, 1), ("open", 64, 0)]
)
def test_only_products_that_go_wrong_are_in_float(tokens, width, floats):
    number = 8 if tokens == "open" else tokens
    made, _ = compressed(Attends(width), number, width)
    model = openvino.Core().read_model(str(made.file))
    model.reshape({0: [2, -1 if tokens == "open" else number, 2 * width]})
    kinds = [node.get_type_name() for node in with_small_products_in_float(model).get_ordered_ops()]
    assert kinds.count("Maximum") == floats


def test_products_of_floats_stay_as_they_are():
    made, _ = compressed(Attends(96), 8, 96)
    kept: Any = openvino.Core().read_model(str(made.file))
    floats = ModelSpeedupOpenVINO(
        Attends(96).eval(), dummy_input=torch.randn(2, 8, 192), calib_data_loader=[torch.randn(2, 8, 192)],
        attention=False,
    )  # fmt: skip
    floats.compress()
    model = openvino.Core().read_model(str(floats.file))
    for each, wanted in ((kept, 1), (model, 0)):
        kinds = [node.get_type_name() for node in with_small_products_in_float(each).get_ordered_ops()]
        assert kinds.count("Maximum") == wanted
