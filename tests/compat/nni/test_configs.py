"""The `config_list`s of NNI 2.5 to 3.0 reach the layers, and ask what they asked."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nni.compression import TorchEvaluator
from nni.compression.pruning import FPGMPruner, L1NormPruner, LevelPruner
from nni.compression.pytorch.pruning import ADMMPruner
from nni.compression.pytorch.pruning import L1NormPruner as L1NormPrunerV2
from nni.compression.quantization import DoReFaQuantizer, PtqQuantizer, QATQuantizer
from nni.compression.utils import auto_set_denpendency_group_ids
from torch import nn

from torchpare.compat.nni.v3_select import selected
from torchpare.errors import CompatError, ConfigError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.block = nn.ModuleDict({name: nn.Conv2d(4, 4, 3, padding=1) for name in ("a", "b")})
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.norm(self.block["b"](self.block["a"](x)))).mean((2, 3)))


X = torch.zeros(1, 1, 6, 6)
LAYERS = [name for name, _ in Net().named_modules() if name]


def asked(pruner):
    return {name: target.sparsity for name, target in pruner.targets.items()}


@pytest.mark.parametrize(
    ("config_list", "expected"),
    [
        ([{"op_types": ["Conv2d"], "sparse_ratio": 0.5}], {"stem": 0.5, "block.a": 0.5, "block.b": 0.5}),
        ([{"op_names_re": ["block"], "op_types": ["Conv2d"], "sparse_ratio": 0.5}], {"block.a": 0.5, "block.b": 0.5}),
        ([{"op_names_re": [r"block\.[ac]"], "sparse_ratio": 0.5}], {"block.a": 0.5}),
        ([{"op_names": ["stem"], "op_names_re": [".*b$"], "sparse_ratio": 0.5}], {"stem": 0.5, "block.b": 0.5}),
        ([{"op_types": ["Conv2d"], "exclude_op_names": ["stem"], "sparse_ratio": 0.5}],
         {"block.a": 0.5, "block.b": 0.5}),
        ([{"op_types": ["Conv2d"], "exclude_op_names_re": ["block.*"], "sparse_ratio": 0.5}], {"stem": 0.5}),
        ([{"op_types": ["default"], "exclude_op_types": ["Linear"], "exclude_op_names": ["stem", "block.a"],
           "sparse_ratio": 0.5}], {"block.b": 0.5}),
        ([{"op_types": ["Conv2d"], "sparse_ratio": 0.5}, {"op_names": ["stem"], "sparse_ratio": 0.25}],
         {"stem": 0.25, "block.a": 0.5, "block.b": 0.5}),
        ([{"op_names": ["stem"], "target_names": ["weight"], "target_settings": {"weight": {"sparse_ratio": 0.75}}}],
         {"stem": 0.75}),
        ([{"op_types": ["Conv2d"], "sparsity_per_layer": 0.5}, {"op_names": ["stem"], "exclude": True},
          {"op_names": ["block.a"], "sparse_ratio": 0.75}], {"block.a": 0.75, "block.b": 0.5}),
        ([{"op_types": ["Conv2d"], "sparsity": 0.5}], {"stem": 0.5, "block.a": 0.5, "block.b": 0.5}),
    ],
)  # fmt: skip
def test_a_config_of_3_0_reaches_what_it_says(config_list, expected):
    assert asked(LevelPruner(Net(), config_list)) == expected


@pytest.mark.parametrize(
    ("config_list", "expected"),
    [
        ([{"op_types": ["Conv2d"], "total_sparsity": 0.5}], {"stem": 0.5, "block.a": 0.5, "block.b": 0.5}),
        ([{"op_partial_names": ["block"], "sparsity": 0.5}], {"block.a": 0.5, "block.b": 0.5}),
        ([{"op_partial_names": ["b"], "op_names": ["stem"], "op_types": ["Conv2d"], "sparsity_per_layer": 0.5},
          {"op_partial_names": ["k.a"], "exclude": True}], {"stem": 0.5, "block.b": 0.5}),
    ],
)  # fmt: skip
def test_a_config_of_2_5_reaches_what_it_says(config_list, expected):
    assert asked(L1NormPrunerV2(Net(), config_list)) == expected


NAMES = st.lists(st.sampled_from(LAYERS), max_size=3, unique=True)
PATTERNS = st.lists(st.sampled_from(["block", "s", ".*a", "head|norm", "x"]), max_size=2, unique=True)
TYPES = st.lists(st.sampled_from(["Conv2d", "Linear", "BatchNorm2d", "ModuleDict"]), max_size=2, unique=True)


@given(NAMES, PATTERNS, TYPES, NAMES, PATTERNS, TYPES)
def test_selection_is_union_intersection_difference(names, patterns, types, not_names, not_patterns, not_types):
    """The sentence of NNI 3, told by sets: (names or patterns) and types, less what is excluded."""
    model = Net()
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if name}
    matching = {name for name in LAYERS if any(re.match(pattern, name) for pattern in patterns)}
    reached = set(names) | matching
    of_types = {name for name in LAYERS if kinds[name] in types}
    if types:
        reached = reached & of_types if names or patterns else of_types
    reached -= set(not_names)
    reached -= {name for name in LAYERS if any(re.match(pattern, name) for pattern in not_patterns)}
    reached -= {name for name in LAYERS if kinds[name] in not_types}
    entry = {"op_names": names, "op_names_re": patterns, "op_types": types, "exclude_op_names": not_names,
             "exclude_op_names_re": not_patterns, "exclude_op_types": not_types, "sparse_ratio": 0.5}  # fmt: skip
    if not reached:
        with pytest.raises(ConfigError, match=r"config_list\[0\] reaches no layer of Net"):
            selected(model, entry, "config_list[0]", ())
        return
    found, rest = selected(model, entry, "config_list[0]", ())
    assert found == [name for name in LAYERS if name in reached]
    assert rest == {"sparse_ratio": 0.5}


def test_layers_of_one_global_group_share_what_goes():
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model.stem.weight.mul_(100)
    pruner = FPGMPruner(model, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5, "global_group_id": "all"}])
    pruner.compress()
    left = [int(layer.weight.flatten(1).any(dim=1).sum()) for layer in (model.stem, *model.block.values())]
    assert sum(left) == 6
    assert left[0] == 4


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_no_layer_of_a_group_loses_more_than_it_may(kind):
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model.stem.weight.mul_(0.001)
    if kind == "v2":
        entry = {"op_types": ["Conv2d"], "total_sparsity": 0.5, "max_sparsity_per_layer": 0.75}
        pruner = L1NormPrunerV2(model, [entry], mode="global")
    else:
        entry = {"op_types": ["Conv2d"], "sparse_ratio": 0.5, "global_group_id": 0, "max_sparse_ratio": 0.75}
        pruner = L1NormPruner(model, [entry])
    pruner.compress()
    left = [int(layer.weight.flatten(1).any(dim=1).sum()) for layer in (model.stem, *model.block.values())]
    assert left[0] == 1
    assert sum(left) == 6
    capped = {**entry, "op_names": ["stem"], ("max_sparse_ratio" if kind == "v3" else "max_sparsity_per_layer"): 0.25}
    rest = {**entry, "op_names": ["block.a", "block.b"]}
    model = Net()
    with torch.no_grad():
        model.stem.weight.mul_(0.001)
    again = (
        L1NormPrunerV2(model, [capped, rest], mode="global") if kind == "v2" else L1NormPruner(model, [capped, rest])
    )
    again.compress()
    assert int(model.stem.weight.flatten(1).any(dim=1).sum()) == 3


def test_layers_that_share_channels_choose_together():
    model = Net()
    entries = auto_set_denpendency_group_ids(model, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}], X)
    pruner = L1NormPruner(model, entries)
    assert pruner.dependency_aware
    pruner.compress()
    same = [layer.weight.flatten(1).any(dim=1) for layer in (model.stem, model.block["b"])]
    assert torch.equal(*same)
    evaluator = TorchEvaluator(lambda *_: None, torch.optim.SGD(model.parameters(), 0.1), dummy_input=X)
    named = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5, "dependency_group_id": "residual"}]
    assert L1NormPruner(Net(), named, evaluator).dependency_aware


def test_rho_is_the_weight_of_the_penalty():
    model = Net()
    entry = {"op_types": ["Conv2d"], "sparsity": 0.5, "rho": 1e-2}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert ADMMPruner(model, [entry], print, optimizer, None, 1, 1).row == 1e-2
    with pytest.raises(ConfigError, match="entries have different 'rho'"):
        ADMMPruner(model, [entry, {**entry, "rho": 1}], print, optimizer, None, 1, 1)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sparse_threshold": 0.1}, r"config_list\[0\]\['sparse_threshold'\] has no counterpart.*sparse_ratio"),
        ({"sparse_ratio": 0.5, "align": {"module_name": "stem"}}, r"\['align'\].*dummy_input"),
        ({"sparse_ratio": 0.5, "target_names": ["_output_0"]}, "'_output_0' cannot be pruned here"),
        ({"sparse_ratio": 0.5, "target_names": ["bias"]}, "has no 'weight'"),
        ({"sparse_ratio": 0.5, "apply_method": "add"}, r"\['apply_method'\] is 'add'"),
        ({"sparse_ratio": 0.5, "granularity": "in_channel"}, r"\['granularity'\] is 'in_channel'"),
        ({"sparse_ratio": 0.5, "dependency_group_id": 1}, "auto_set_denpendency_group_ids"),
        ({"target_names": ["weight"]}, "has no 'sparse_ratio'"),
        ({"sparse_ratio": 1.5}, "outside"),
        ({"sparse_ratio": 0.5, "op_names_re": ["("]}, r"\['op_names_re'\]\[0\]: '\(' is no pattern"),
        ({"sparse_ratio": 0.5, "op_names": ["stam"]}, r"\['op_names'\]\[0\]: 'stam' names no layer"),
        ({"sparse_ratio": 0.5, "op_names_re": "block"}, "give a list of text"),
        ({"sparse_ratio": 0.5, "colour": "red"}, "there is no such key"),
    ],
)
def test_what_3_0_could_say_and_torchpare_cannot_do_is_refused_with_the_way_out(entry, message):
    model = Net()
    with pytest.raises((CompatError, ConfigError), match=message):
        LevelPruner(model, [{"op_types": ["Conv2d"], **entry}])


@pytest.mark.parametrize("given", [None, [], {}, [3], "all"])
def test_what_is_no_config_list_is_told_as_ever(given):
    for kind in (LevelPruner, L1NormPrunerV2, QATQuantizer):
        with pytest.raises(ConfigError, match="config_list"):
            kind(Net(), given, *([None] if kind is QATQuantizer else []))


def grids(config_list, kind=QATQuantizer, **more):
    quantizer = kind(Net(), config_list, None, **more)
    return {name: {key: value for key, value in target.entry.model_dump(exclude_defaults=True).items()
                   if key != "op_names"} for name, target in quantizer.targets.items()}  # fmt: skip


def test_grids_of_3_0_are_said_in_ours():
    found = grids([
        {"op_names": ["stem"], "target_names": ["_input_0", "weight"], "quant_dtype": "int8",
         "quant_scheme": "symmetric", "granularity": "default"},
        {"op_names_re": ["block"], "op_types": ["Conv2d"], "target_settings": {
            "weight": {"quant_dtype": "int4", "granularity": "out_channel"},
            "_output_0": {"quant_dtype": "uint8", "quant_scheme": "affine", "granularity": "per_tensor"}}},
    ], quant_start_step=7)  # fmt: skip
    assert found["stem"] == {
        "quant_types": ("input", "weight"), "quant_bits": {"input": 8, "weight": 8}, "quant_start_step": 7,
        "quant_scheme": {"input": "symmetric", "weight": "symmetric"}, "signed": {"input": True, "weight": True},
    }  # fmt: skip
    assert found["block.a"] == found["block.b"] == {
        "quant_types": ("weight", "output"), "quant_bits": {"weight": 4, "output": 8}, "quant_start_step": 7,
        "quant_scheme": {"output": "affine"}, "granularity": {"weight": "channel", "output": "tensor"},
        "signed": {"weight": True, "output": False},
    }  # fmt: skip


def test_without_target_names_input_weight_and_output_are_quantized():
    assert set(grids([{"op_names": ["stem"], "quant_dtype": "int8"}])["stem"]["quant_types"]) == {
        "input", "weight", "output",
    }  # fmt: skip


def test_levels_of_a_formula_take_bits_alone():
    found = grids([{"op_names": ["stem"], "target_names": ["weight"], "quant_dtype": "uint4"}], DoReFaQuantizer)
    assert found["stem"] == {"quant_types": ("weight",), "quant_bits": {"weight": 4}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"target_names": ["bias"]}, "'bias' cannot be quantized here.*integers of 32 bits"),
        ({"target_names": ["weight"], "granularity": [4, 4]}, r"\['granularity'\] of weight is \[4, 4\]"),
        ({"target_names": ["_output_0"], "granularity": "out_channel"}, "activations 'per_tensor'"),
        ({"target_names": ["weight"], "apply_method": "bypass"}, "is bypassed; leave it out"),
        ({"target_names": ["weight"], "quant_dtype": "float8"}, "quant_dtype"),
    ],
)
def test_grids_that_torchpare_has_not_are_refused(entry, message):
    with pytest.raises((CompatError, ConfigError), match=message):
        grids([{"op_names": ["stem"], **entry}])


def test_what_a_quantizer_of_3_0_cannot_do_here_says_what_to_call():
    entries = [{"op_names": ["stem"], "target_names": ["weight"]}]
    with pytest.raises(CompatError, match="correct_biases"):
        PtqQuantizer(Net(), entries, None, is_bias_correction=True)
    with pytest.raises(ConfigError, match="fuse_names: norms are found by an example input"):
        QATQuantizer(Net(), [{**entries[0], "fuse_names": [("block.b", "norm")]}], None)
    with pytest.raises(CompatError, match="existed_wrappers"):
        LevelPruner(Net(), [{"op_names": ["stem"], "sparse_ratio": 0.5}], None, {"stem": object()})
    with pytest.raises(CompatError, match="evaluator is a function"):
        LevelPruner(Net(), [{"op_names": ["stem"], "sparse_ratio": 0.5}], lambda model: 1)
    with pytest.raises(CompatError, match="trains while it compresses: give it an evaluator"):
        QATQuantizer(Net(), entries, None).compress()
