"""What a quantizer's config_list may say, and what is said of one that may not."""

from __future__ import annotations

import pytest
from torch import nn

from torchpare.config import read_entries
from torchpare.config.quantization import QuantEntry, QuantSpec
from torchpare.errors import ConfigError
from torchpare.numerics import Grid
from torchpare.quantization import QAT_Quantizer

WHERE = {"op_types": ["Conv2d"]}
GOOD = {"quant_types": ["weight", "output"], "quant_bits": 8, **WHERE}


def read(**keys):
    return read_entries([{**GOOD, **keys}], QuantEntry)[0]


def test_one_number_is_for_all_types_and_a_dict_for_each():
    assert read().quant_bits == {"weight": 8, "output": 8}
    assert read(quant_bits={"weight": 4, "output": 8}).quant_bits == {"weight": 4, "output": 8}
    assert read(granularity={"weight": "channel"}).granularity == {"weight": "channel"}


def test_what_is_left_out_is_the_algorithms_choice():
    default = QuantSpec(Grid(8, signed=True, symmetric=True, narrow=True), granularity="channel", observer="mse")
    assert read(quant_bits=4).spec("weight", default) == QuantSpec(
        Grid(4, signed=True, symmetric=True, narrow=True), granularity="channel", observer="mse"
    )
    assert read(quant_bits=1).spec("weight", default).grid == Grid(1, signed=True, symmetric=True)


def test_a_scheme_brings_its_signs_unless_they_are_given():
    default = QuantSpec()
    symmetric = read(quant_scheme={"weight": "symmetric"})
    assert symmetric.spec("weight", default).grid == Grid(8, signed=True, symmetric=True, narrow=True)
    assert symmetric.spec("output", default).grid == Grid(8)
    assert read(quant_scheme="affine", signed=True).spec("weight", default).grid == Grid(8, signed=True)
    assert read(quant_scheme="symmetric", narrow_range=False).spec("output", default).grid == Grid(8, True, True)


def test_groups_percentiles_and_start_steps_reach_the_spec():
    entry = read(
        granularity={"weight": "group"}, group_size=16, observer="percentile", percentile=99, quant_start_step=7
    )
    spec = entry.spec("weight", QuantSpec())
    assert (spec.granularity, spec.group_size, spec.observer, spec.percentile, spec.start_step) == (
        "group",
        16,
        "percentile",
        99,
        7,
    )


def test_an_entry_that_excludes_needs_nothing_else():
    assert read_entries([{"exclude": True, **WHERE}], QuantEntry)[0].exclude


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ({**WHERE}, "", "neither 'quant_types'"),
        ({**WHERE, "quant_types": ["weight"]}, "", "neither 'quant_bits'"),
        ({"quant_types": ["weight"], "quant_bits": 8}, "", "neither 'op_types' nor 'op_names'"),
        ({**GOOD, "quant_types": ["bias"]}, "['quant_types'][0]", "'weight', 'input', 'output'"),
        ({**GOOD, "quant_types": "weight"}, "['quant_types']", "give ['weight']"),
        ({**GOOD, "quant_bits": 0}, "['quant_bits']", "1 to 16"),
        ({**GOOD, "quant_bits": 17}, "['quant_bits']", "1 to 16"),
        ({**GOOD, "quant_bits": True}, "['quant_bits']", "True"),
        ({**GOOD, "quant_bits": "8"}, "['quant_bits']", "'8'"),
        ({**GOOD, "quant_bits": {"weight": 8}}, "['quant_bits']", "no 'output'"),
        ({**GOOD, "quant_bits": {"weight": 8, "output": 8, "input": 8}}, "['quant_bits']", "'input', which is not in"),
        ({**GOOD, "quant_bits": {"weight": 8, "outputs": 8}}, "['quant_bits']", "key 'outputs'"),
        ({**GOOD, "quant_start_step": -1}, "['quant_start_step']", "-1"),
        ({**GOOD, "quant_start_step": 1.5}, "['quant_start_step']", "1.5"),
        ({**GOOD, "quant_scheme": "asymmetric"}, "['quant_scheme']", "'affine', 'symmetric'"),
        ({**GOOD, "granularity": "channel"}, "['granularity']", "activations have one scale"),
        ({**GOOD, "granularity": {"weight": "group"}}, "['granularity']", "'group_size'"),
        ({**GOOD, "group_size": 8}, "['group_size']", "not 'group'"),
        ({**GOOD, "percentile": 99}, "['percentile']", "not 'percentile'"),
        ({**GOOD, "observer": "percentile", "percentile": 10}, "['percentile']", "above 50"),
        ({**GOOD, "observer": "entropy"}, "['observer']", "'kl'"),
        ({**GOOD, "signed": 1}, "['signed']", "True or False"),
        ({**GOOD, "narrow_range": True, "quant_bits": 1}, "['narrow_range']", "single integer"),
        ({**GOOD, "sparsity": 0.5}, "['sparsity']", "no such key"),
        ({**GOOD, "quant_type": ["weight"]}, "['quant_type']", "did you mean 'quant_types'"),
    ],
)
def test_a_contradiction_is_named_with_its_entry_and_key(entry, key, words):
    with pytest.raises(ConfigError) as caught:
        read_entries([GOOD, entry], QuantEntry)
    assert str(caught.value).startswith(f"config_list[1]{key}")
    assert words in str(caught.value)


def test_an_empty_list_shows_what_a_quantizers_entry_looks_like():
    with pytest.raises(ConfigError, match="'quant_bits': 8"):
        read_entries([], QuantEntry)


def of(**more):
    (entry,) = read_entries([{"quant_types": ["weight", "output"], **WHERE, **more}], QuantEntry)
    return {kind: entry.spec(kind, QuantSpec()) for kind in entry.quant_types}


def test_words_of_later_nni_configs_are_understood():
    own = of(
        quant_bits={"weight": 8, "output": 4},
        quant_dtype={"weight": "int", "output": "uint"},
        quant_scheme={"weight": "per_channel_symmetric", "output": "per_tensor_affine"},
    )
    assert own["weight"].grid == Grid(8, signed=True, symmetric=True, narrow=True)
    assert own["weight"].granularity == "channel"
    assert own["output"].grid == Grid(4)
    assert own["output"].granularity == "tensor"
    assert of(quant_dtype="int6", quant_scheme="symmetric")["output"].grid.bits == 6
    assert of(quant_dtype="uint8", quant_scheme="symmetric")["output"].grid.signed is False
    assert of(quant_bits=8, quant_dtype="int8") == of(quant_bits=8, signed=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"quant_bits": 4, "quant_dtype": "int8"}, "asks for quant_bits 8, and .* for 4"),
        ({"quant_bits": 8, "quant_dtype": {"weight": "int"}, "signed": False}, "asks for signed True"),
        ({"quant_bits": 8, "quant_dtype": "float8"}, "has 'float8'; give 'int'"),
        ({"quant_bits": 8, "quant_scheme": "per_channel_affine", "granularity": "tensor"}, "granularity 'channel'"),
        ({"quant_bits": 8, "quant_scheme": "per_row_affine"}, "is 'per_row_affine'; it is one of 'affine'"),
    ],
)
def test_what_they_contradict_is_named(more, said):
    with pytest.raises(ConfigError, match=said):
        of(**more)


def test_a_model_is_not_told_that_it_is_a_layer_itself():
    asked = [{**GOOD, "op_types": ["conv2d"]}]
    for model, told in ((nn.Sequential(nn.Conv2d(1, 1, 1)), False), (nn.Linear(1, 1), True)):
        with pytest.raises(ConfigError) as error:
            QAT_Quantizer(model, asked)
        assert ("The model itself is one" in str(error.value)) == told
