"""Half of the filters of well-known networks, with random values everywhere: shrunk equals masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.vision import randomise, torchvision_models
from torchpare.pruning import L1FilterPruner
from torchpare.speedup import ModelSpeedup

# parameters that may be left of 1, with and without dependency_aware: filters go from both sides of most layers
NETS = {
    "resnet18": (0.35, 0.75),
    "resnet50": (0.4, 0.75),
    "mobilenet_v2": (0.4, 0.85),
    "vgg16_bn": (0.6, 0.6),
    "densenet121": (0.4, 0.4),
    "googlenet": (0.5, 0.5),
    "squeezenet1_0": (0.4, 0.4),
    "shufflenet_v2_x1_0": (0.6, 0.9),
}
MORE = {
    "googlenet": {"init_weights": False},
    "vgg16_bn": {"init_weights": False},
    "densenet121": {"memory_efficient": False},
}


def build(name: str) -> nn.Module:
    """A model without torchvision's slow initialisation, filled by `randomise`."""
    with torch.device("meta"):
        model = getattr(torchvision_models(), name)(weights=None, num_classes=10, **MORE.get(name, {}))
    model = model.to_empty(device="cpu")
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("num_batches_tracked"):
            buffer.zero_()
    if name == "vgg16_bn":  # its two widest layers say nothing that smaller ones do not
        model.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10))
    return randomise(model, torch.Generator().manual_seed(0)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("aware", [True, False], ids=["aware", "each on its own"])
@pytest.mark.parametrize("name", NETS)
def test_half_of_the_filters_go_and_nothing_else_changes(name, aware):
    model = build(name)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    pruner = L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}], dependency_aware=aware, dummy_input=x)
    pruner.compress()
    report = ModelSpeedup(model, x).speedup_model()
    assert report.exact, str(report)
    assert report.largest_difference <= 1e-10
    assert report.output_change > 1e-3
    assert not report.unknown
    assert report.parameters_after / report.parameters_before < NETS[name][0 if aware else 1]
    out = model.train()(x)
    out = out if isinstance(out, torch.Tensor) else out.logits
    out.square().mean().backward()
    assert out.shape == (2, 10)
