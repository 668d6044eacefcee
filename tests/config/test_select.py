"""Which layers a config_list selects: later entries win, whole; names, types and their conjunction; clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.attach import attach_mask
from torchpare.config import CONVOLUTIONS, FILTERED, WEIGHTED, select
from torchpare.errors import ConfigError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Linear(4, 4))
        self.up = nn.ConvTranspose2d(4, 4, 3)
        self.embed = nn.Embedding(5, 4)
        self.fc = nn.Linear(4, 2)


def filters(model, config_list):
    return select(model, config_list, supported=FILTERED, default=CONVOLUTIONS, algorithm="L1FilterPruner")


def sparsities(targets):
    return {name: target.sparsity for name, target in targets.items()}


def test_default_means_what_the_algorithm_can_handle():
    asked = [{"sparsity": 0.5, "op_types": ["default"]}]
    assert list(filters(Net(), asked)) == ["conv1", "block.0", "up"]
    every = select(Net(), asked, supported=WEIGHTED)
    assert list(every) == ["conv1", "block.0", "block.2", "up", "embed", "fc"]


def test_default_may_stand_beside_other_types():
    assert list(filters(Net(), [{"sparsity": 0.5, "op_types": ["default", "Linear"]}])) == [
        "conv1", "block.0", "block.2", "up", "fc",
    ]  # fmt: skip


def test_the_tutorials_example():
    config_list = [
        {"sparsity": 0.8, "op_types": ["default"]},
        {"sparsity": 0.6, "op_names": ["conv1", "fc"]},
        {"exclude": True, "op_names": ["up"]},
    ]
    assert sparsities(filters(Net(), config_list)) == {"conv1": 0.6, "block.0": 0.8, "fc": 0.6}


def test_types_and_names_together_reach_what_is_in_both():
    asked = [{"sparsity": 0.5, "op_types": ["Conv2d"], "op_names": ["block.0", "fc"]}]
    assert list(filters(Net(), asked)) == ["block.0"]


def test_exclude_false_excludes_nothing():
    asked = [{"sparsity": 0.5, "op_types": ["Conv2d"], "exclude": False}]
    assert list(filters(Net(), asked)) == ["conv1", "block.0"]


def test_a_later_entry_takes_back_an_exclusion():
    asked = [{"exclude": True, "op_types": ["Conv2d"]}, {"sparsity": 0.25, "op_names": ["conv1"]}]
    assert sparsities(filters(Net(), asked)) == {"conv1": 0.25}


def test_an_exclusion_wins_even_with_a_sparsity_in_it():
    asked = [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"sparsity": 0.1, "exclude": True, "op_names": ["conv1"]}]
    assert sparsities(filters(Net(), asked)) == {"block.0": 0.5}


def test_an_entry_that_later_ones_overwrite_completely_is_no_error():
    asked = [{"sparsity": 0.1, "op_names": ["conv1"]}, {"sparsity": 0.5, "op_types": ["Conv2d"]}]
    assert sparsities(filters(Net(), asked)) == {"conv1": 0.5, "block.0": 0.5}


def test_everything_may_be_excluded():
    assert filters(Net(), [{"exclude": True, "op_types": ["default"]}]) == {}


def test_layers_that_cannot_be_pruned_may_be_excluded():
    asked = [{"sparsity": 0.5, "op_types": ["default"]}, {"exclude": True, "op_names": ["block", "embed"]}]
    assert list(filters(Net(), asked)) == ["conv1", "block.0", "up"]


def test_the_order_is_the_models():
    asked = [{"sparsity": 0.5, "op_names": ["up"]}, {"sparsity": 0.5, "op_names": ["conv1"]}]
    assert list(filters(Net(), asked)) == ["conv1", "up"]


def test_a_shared_layer_is_selected_once_by_any_of_its_names():
    model = Net()
    model.again = model.conv1
    assert list(filters(model, [{"sparsity": 0.5, "op_names": ["again"]}])) == ["conv1"]
    assert list(filters(model, [{"sparsity": 0.5, "op_names": ["again", "conv1"]}])) == ["conv1"]
    asked = [{"sparsity": 0.5, "op_names": ["conv1"]}, {"sparsity": 0.25, "op_names": ["again"]}]
    assert sparsities(filters(model, asked)) == {"conv1": 0.25}


def test_a_masked_layer_keeps_the_name_of_its_type():
    model = Net()
    attach_mask(model.conv1, "weight", torch.tensor([True, False, True, True]).reshape(4, 1, 1, 1))
    asked = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
    assert list(filters(model, asked)) == ["conv1", "block.0"]
    assert list(filters(model, [{"sparsity": 0.5, "op_types": ["default"]}])) == ["conv1", "block.0", "up"]
    assert filters(model, asked)["conv1"].type == "Conv2d"


def test_subclasses_of_what_can_be_handled_are_selected_when_named_and_not_by_default():
    class MyConv(nn.Conv2d):
        pass

    model = nn.Sequential(MyConv(1, 2, 3), nn.Conv2d(2, 2, 3))
    assert list(filters(model, [{"sparsity": 0.5, "op_types": ["MyConv"]}])) == ["0"]
    assert list(filters(model, [{"sparsity": 0.5, "op_types": ["default"]}])) == ["1"]
    assert list(filters(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}])) == ["1"]


@pytest.mark.parametrize(
    ("entry", "place", "words"),
    [
        ({"op_names": ["conv2"]}, "['op_names'][0]", ["'conv2' names no layer of Net", "did you mean 'conv1'"]),
        ({"op_names": ["fc", "blok.0"]}, "['op_names'][1]", ["'blok.0' names no layer", "'block.0'"]),
        ({"op_names": [""]}, "['op_names'][0]", ["'' names no layer"]),
        ({"op_types": ["Conv3d"]}, "['op_types'][0]", ["no layer of Net is of type 'Conv3d'", "did you mean 'Conv2d'"]),
        ({"op_types": ["LSTM"]}, "['op_types'][0]", ["'LSTM'", "its types are BatchNorm2d, Conv2d"]),
        ({"op_types": ["conv2d"]}, "['op_types'][0]", ["did you mean 'Conv2d'"]),
        ({"op_types": ["default", "conv1"]}, "['op_types'][1]", ["no layer of Net is of type 'conv1'"]),
        ({"op_types": ["Embedding"]}, "['op_types'][0]", ["'Embedding' is a type that cannot be pruned by L1Filter",
                                                          "which handles Conv1d, "]),
        ({"op_types": ["default", "BatchNorm2d"]}, "['op_types'][1]", ["'BatchNorm2d' is a type"]),
        ({"op_names": ["conv1", "embed"]}, "['op_names'][1]", ["'embed' is of type Embedding, which cannot be pruned"]),
        ({"op_names": ["block"]}, "['op_names'][0]", ["'block' is of type Sequential", "such as 'block.0'"]),
        ({"structures": ["mlp"]}, "['structures']", ["L1FilterPruner selects layers", "torchpare.plan"]),
        ({"structures": ["heads"], "op_types": ["Linear"]}, "['structures']", ["TransformerHeadPruner"]),
        ({"op_types": ["Linear"], "op_names": ["conv1", "up"]}, "", ["reaches no layer", "'conv1' is of type Conv2d"]),
    ],
)  # fmt: skip
def test_names_and_types_that_cannot_be_used_are_refused_with_the_nearest_ones(entry, place, words):
    with pytest.raises(ConfigError) as caught:
        filters(Net(), [{"sparsity": 0.5, "op_types": ["default"]}, {"sparsity": 0.5} | entry])
    message = str(caught.value)
    assert message.startswith(f"config_list[1]{place}")
    assert all(word in message for word in words), message


def test_an_exclusion_that_reaches_nothing_is_refused_too():
    with pytest.raises(ConfigError, match=r"config_list\[0\]\['op_names'\]\[0\]: 'cov1'.*'conv1'"):
        filters(Net(), [{"exclude": True, "op_names": ["cov1"]}])


def test_default_without_such_layers_is_refused():
    with pytest.raises(ConfigError, match=r"'default' stands for Conv1d.*L1FilterPruner.*has no such layer"):
        filters(nn.Sequential(nn.Linear(2, 2)), [{"sparsity": 0.5, "op_types": ["default"]}])


def test_a_model_that_is_one_layer_is_told_to_be_wrapped():
    with pytest.raises(ConfigError, match=r"wrap it in nn\.Sequential"):
        filters(nn.Conv2d(1, 2, 3), [{"sparsity": 0.5, "op_types": ["default"]}])


def test_what_is_no_module_is_refused():
    with pytest.raises(ConfigError, match="model is a dict"):
        filters({}, [{"sparsity": 0.5, "op_types": ["default"]}])
