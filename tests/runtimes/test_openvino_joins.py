"""Patches beside a class token, as vision transformers begin: OpenVINO computes what the program says."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from tests.support.vision import randomise, torchvision_models
from torchpare.runtimes import ModelSpeedupOpenVINO, build_program, verify, write_qdq
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


class Growing(nn.Module):
    """As DenseNets go on: a norm and an activation function of what was concatenated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)
        self.other = nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = torch.cat([y, self.second(torch.relu(y))], 1)
        return self.last(torch.relu(self.norm(y))) + self.other(y)


def test_a_rounded_concatenation_before_a_norm_and_another_rounding_is_written_out_for_these_alone():
    batches = list(torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    model = Growing()
    randomise(model, torch.Generator().manual_seed(0))
    made = ModelSpeedupOpenVINO(model.eval(), dummy_input=batches[0], calib_data_loader=batches)
    program, path = build_program(model, batches[0], calibration=batches), made.folder() / "model.onnx"
    write_qdq(program, path)
    nodes = {node.output[0]: node for node in with_written_out_roundings(onnx.load(str(path))).graph.node}
    # Asked first: OpenVINO ends this process where it is left to itself.
    assert [node.op_type for node in nodes.values()].count("Round") == 1
    norm = next(node for node in nodes.values() if node.op_type == "BatchNormalization")
    others = [node for node in nodes.values() if node.op_type == "Conv" and "other" in "".join(node.input)]
    assert nodes[norm.input[0]].op_type == "Mul"
    assert nodes[others[0].input[0]].op_type == "DequantizeLinear"
    made.compress()
    assert verify(made, batches[1]).ok
