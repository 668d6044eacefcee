"""Patches beside a class token, as vision transformers begin: OpenVINO computes what the program says."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from tests.support.vision import randomise, torchvision_models
from torchpare.runtimes import ModelSpeedupOpenVINO, verify
from torchpare.runtimes.openvino_joins import with_written_out_roundings
from torchpare.runtimes.verify import snr

pytest.importorskip("openvino")


class Beginning(nn.Module):
    """Patches, a token beside them that is on no grid, and a linear layer on all of it."""

    def __init__(self, *, token: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.other = nn.Conv2d(3, 16, 4, stride=4), nn.Conv2d(3, 16, 4, stride=4)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)
        self.token = nn.Parameter(torch.randn(1, 1, 16)) if token else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        beside = self.other(x).flatten(2).transpose(1, 2) if self.token is None else self.token.expand(len(x), -1, -1)
        return self.head(self.norm(torch.cat([beside, y], 1)))


def engine(*, token):
    batches = list(torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(Beginning(token=token).eval(), dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    return made, batches[0]


def test_a_vision_transformer_computes_what_it_computes_in_pytorch():
    kind = torchvision_models().VisionTransformer
    torch.manual_seed(0)
    model = kind(32, 8, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5)
    randomise(model, torch.Generator().manual_seed(0))
    batches = list(torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(model.eval(), dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    assert snr(made.made()(batches[0]), made.inference(batches[0])[0]) > 35  # 3 where OpenVINO is left to itself


@pytest.mark.parametrize("token", [True, False])
def test_the_whole_program_computes_what_it_computes_in_pytorch(token):
    made, x = engine(token=token)
    assert snr(made.made()(x), made.inference(x)[0]) > 60
    assert verify(made, x).ok


def test_roundings_are_written_out_only_where_a_concatenation_mixes():
    for token in (True, False):
        made, _ = engine(token=token)
        before = onnx.load(str(made.file))
        after = with_written_out_roundings(onnx.load(str(made.file)))
        onnx.checker.check_model(after)
        kinds = [node.op_type for node in after.graph.node]
        assert kinds.count("Round") == (1 if token else 0)
        if not token:
            assert after == before
