"""No two weights share a zero point, over which OpenVINO would compute some of them in float."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.vision import torchvision_models
from torchpare.runtimes import ModelSpeedupOpenVINO, verify
from torchpare.runtimes.openvino_zeros import with_own_zero_points
from torchpare.runtimes.verify import snr

openvino = pytest.importorskip("openvino")


def zero_points(model) -> list[str]:
    """The constants that are subtracted, by name."""
    found = []
    for node in [node for node in model.get_ordered_ops() if node.get_type_name() == "Subtract"]:
        source = node.input_value(1).get_node()
        while source.get_type_name() in ("Convert", "Reshape"):
            source = source.input_value(0).get_node()
        found.append(source.get_friendly_name())
    return found


@pytest.fixture
def kernels(monkeypatch):
    """The kernels of layers with weights of what is compiled, by kind."""
    seen: list[list[str]] = []

    class Watched(openvino.Core):
        def compile_model(self, *given):
            made = super().compile_model(*given)
            nodes = [node.get_rt_info() for node in made.get_runtime_model().get_ordered_ops()]
            layers = [each for each in nodes if each["layerType"].astype(str) in ("Convolution", "FullyConnected")]
            seen.append([each["primitiveType"].astype(str) for each in layers])
            return made

    monkeypatch.setattr(openvino, "Core", Watched)
    return seen


def test_a_vision_transformer_of_fixed_sizes_is_in_integers_throughout(kernels):
    torch.manual_seed(0)
    kind = torchvision_models().VisionTransformer
    model = kind(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5).eval()
    batches = list(torch.randn(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(model, dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    assert len(kernels[0]) == 1 + 4 * 2 + 1
    assert all(each.lower().endswith("i8") for each in kernels[0])
    assert snr(made.made()(batches[0]), made.inference(batches[0])[0]) > 35


def test_every_zero_point_is_a_constant_of_its_own():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    made = ModelSpeedupOpenVINO(model.eval(), dummy_input=x, calib_data_loader=[x])
    made.compress()
    read = openvino.Core().read_model(str(made.file))
    before = zero_points(read)
    after = zero_points(with_own_zero_points(read))
    assert len(set(before)) < len(before) == len(after) == len(set(after))
    assert verify(made, x).ok
