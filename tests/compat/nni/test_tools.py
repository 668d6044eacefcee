"""Tools under NNI's paths: what they return, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from nni.compression.pytorch.default_layers import weighted_modules
from nni.compression.pytorch.speedup import ModelSpeedup
from nni.compression.pytorch.speedup.error_code import EmptyLayerError, ShapeMisMatchError
from nni.compression.pytorch.utils.counter import count_flops_params
from nni.compression.pytorch.utils.mask_conflict import fix_mask_conflict
from nni.compression.pytorch.utils.num_param_counter import get_total_num_weights
from nni.compression.pytorch.utils.shape_dependency import ChannelDependency, GroupDependency
from nni.compression.pytorch.utils.utils import get_module_by_name
from nni.compression.speedup import ModelSpeedup as ModelSpeedupV3
from torch import nn

from torchpare.errors import CompatError, ProofError, ShrinkError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(4, 3))

    def forward(self, x):
        x = self.conv1(x)
        return self.body((x + self.conv2(x)).mean((2, 3)))


X = torch.zeros(2, 1, 6, 6)


def mask(*keep):
    return {"weight": torch.tensor([float(one) for one in keep]).view(4, 1, 1, 1)}


def test_modules_are_found_with_their_parents():
    model = Net()
    assert get_module_by_name(model, "body.1") == (model.body, model.body[1])
    assert get_module_by_name(model, "conv1") == (model, model.conv1)
    assert get_module_by_name(model, "conv3") == (None, None)
    assert get_module_by_name(model, "") == (None, None)


def test_weights_are_counted_without_biases():
    model = Net()
    assert get_total_num_weights(model) == 36 + 72 + 12
    assert get_total_num_weights(model, ["Linear"]) == 12
    assert {"Conv2d", "Linear", "Embedding"} <= set(weighted_modules)


def test_dependencies_and_conflicts_are_those_of_torchpare(tmp_path):
    model = Net()
    assert ChannelDependency(model, X).dependency_sets == [{"conv1", "conv2"}]
    assert GroupDependency(model, dummy_input=X).dependency == {"conv1": 2, "conv2": 2}
    fixed = fix_mask_conflict({"conv1": mask(0, 1, 0, 1), "conv2": mask(0, 1, 1, 1)}, model, X, None)
    assert fixed["conv1"]["weight"].flatten().tolist() == fixed["conv2"]["weight"].flatten().tolist()
    torch.save({"conv1": mask(0, 1, 0, 1)}, tmp_path / "mask.pth")
    assert set(fix_mask_conflict(str(tmp_path / "mask.pth"), model, X)) == {"conv1"}


def test_operations_are_counted():
    flops, params, rows = count_flops_params(Net(), (1, 1, 6, 6), verbose=False)
    assert flops == 36 * 36 + 36 * 72 + 12
    assert params == sum(parameter.numel() for parameter in Net().parameters())
    assert {"name", "flops", "params", "weight_shape"} <= set(rows[0])


def test_graphs_of_nni_are_not_read():
    for call in (ChannelDependency, GroupDependency):
        with pytest.raises(CompatError, match="give the model and an example input"):
            call(traced_model=object())
    with pytest.raises(CompatError, match="give the model and an example input"):
        fix_mask_conflict({}, traced=object())


def test_errors_of_nni_s_speedup_are_caught_under_their_names():
    assert EmptyLayerError is ShapeMisMatchError is ShrinkError
    assert issubclass(ProofError, EmptyLayerError)


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (ModelSpeedup, {"customized_replace_func": {"Conv2d": print}}, "customized_replace_func"),
        (ModelSpeedupV3, {"customized_replacers": [print]}, "customized_replacers"),
        (ModelSpeedupV3, {"customized_mask_updaters": [print]}, "customized_mask_updaters"),
        (ModelSpeedupV3, {"graph_module": X}, "graph_module"),
    ],
)
def test_plug_ins_of_nni_s_speedup_are_refused(kind, options, name):
    options = {key: [value] if key == "graph_module" else value for key, value in options.items()}
    with pytest.raises(CompatError, match=f"ModelSpeedup has no {name} here.*Add an operator"):
        kind(Net(), X, {"conv1": mask(0, 1, 0, 1)}, **options)


def test_the_report_of_3_0_is_kept():
    model = Net()
    masks = {name: mask(0, 1, 0, 1) for name in ("conv1", "conv2")}
    job = ModelSpeedupV3(model, X, masks, batch_dim=0, batch_size=8, garbage_collect_values=True)
    assert job.report is None
    assert job.speedup_model() is model
    assert job.report is not None
    assert job.report.parameters_after < job.report.parameters_before
