"""A config_list is checked before anything is touched, and each error says which entry, which key, and what to do."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from torchpare.config import read_entries
from torchpare.errors import ConfigError

GOOD = {"sparsity": 0.5, "op_types": ["Conv2d"]}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (0.5, 0.5),
        (0, 0.0),
        (0.0, 0.0),
        (0.999, 0.999),
        (np.float32(0.7), 0.7),
        (np.float64(0.25), 0.25),
        (np.int64(0), 0.0),
        (Fraction(1, 4), 0.25),
    ],
)
def test_a_sparsity_is_any_real_number_from_zero_up_to_but_not_including_one(given, read):
    assert read_entries([{"sparsity": given, "op_types": ["Conv2d"]}])[0].sparsity == read


def test_lists_and_tuples_are_equally_good():
    (entry,) = read_entries(({"sparsity": 0.5, "op_types": ("Conv2d", "Linear"), "op_names": ["a"]},))
    assert entry.op_types == ("Conv2d", "Linear")
    assert entry.op_names == ("a",)
    assert entry.exclude is False


def test_entries_do_not_change_once_read():
    (entry,) = read_entries([GOOD])
    with pytest.raises(ValueError, match="frozen"):
        entry.sparsity = 0.1


def test_reading_leaves_the_users_dicts_as_they_were():
    given = [{"sparsity": 0.5, "op_types": ["default", "Conv2d"]}]
    read_entries(given)
    assert given == [{"sparsity": 0.5, "op_types": ["default", "Conv2d"]}]


@pytest.mark.parametrize(
    ("entry", "place", "words"),
    [
        (
            {"sparsty": 0.5, "op_types": ["Conv2d"]},
            "config_list[1]['sparsty']",
            ["did you mean 'sparsity'", "'op_names'"],
        ),
        ({"sparsity": 0.5, "op_type": ["Conv2d"]}, "config_list[1]['op_type']", ["did you mean 'op_types'"]),
        ({"quant_bits": 8, "op_types": ["x"]}, "config_list[1]['quant_bits']", ["no such key", "remove it"]),
        (
            {"sparsity_per_layer": 0.5, "op_types": ["x"]},
            "config_list[1]['sparsity_per_layer']",
            ["here 'sparsity' says it", "import torchpare.compat.nni"],
        ),
        (GOOD | {"op_names_re": ["x"]}, "config_list[1]['op_names_re']", ["here 'op_names' says it"]),
        (GOOD | {"max_sparsity_per_layer": 1.5}, "config_list[1]['max_sparsity_per_layer']", ["is 1.5", "in [0, 1]"]),
        (GOOD | {"max_sparsity_per_layer": "1"}, "config_list[1]['max_sparsity_per_layer']", ["is '1'", "in [0, 1]"]),
        ({7: 0.5}, "config_list[1][7]", ["no such key"]),
        (GOOD | {"sparsity": 1.0}, "config_list[1]['sparsity']", ["is 1,", "outside [0, 1)"]),
        (GOOD | {"sparsity": 50}, "config_list[1]['sparsity']", ["is 50,", "for 50 % give 0.5"]),
        (GOOD | {"sparsity": -0.1}, "config_list[1]['sparsity']", ["is -0.1", "outside [0, 1)"]),
        (GOOD | {"sparsity": float("nan")}, "config_list[1]['sparsity']", ["is nan", "outside [0, 1)"]),
        (GOOD | {"sparsity": float("inf")}, "config_list[1]['sparsity']", ["is inf", "outside [0, 1)"]),
        (GOOD | {"sparsity": True}, "config_list[1]['sparsity']", ["is True (bool), not a number"]),
        (GOOD | {"sparsity": "0.5"}, "config_list[1]['sparsity']", ["is '0.5' (str), not a number"]),
        (GOOD | {"sparsity": None}, "config_list[1]['sparsity']", ["is None (NoneType), not a number"]),
        (GOOD | {"sparsity": 1j}, "config_list[1]['sparsity']", ["(complex), not a number"]),
        (GOOD | {"sparsity": torch.tensor(0.5)}, "config_list[1]['sparsity']", ["(Tensor), not a number"]),
        (GOOD | {"op_types": "Conv2d"}, "config_list[1]['op_types']", ["not a list; give ['Conv2d']"]),
        (GOOD | {"op_names": {"conv1"}}, "config_list[1]['op_names']", ["(set), not a list of text"]),
        (GOOD | {"op_types": []}, "config_list[1]['op_types']", ["is empty"]),
        (GOOD | {"op_types": ["Conv2d", torch.nn.Linear]}, "config_list[1]['op_types'][1]", ["(type), not text"]),
        (GOOD | {"op_names": ["{braces}", 3]}, "config_list[1]['op_names'][1]", ["is 3 (int), not text"]),
        (GOOD | {"exclude": 1}, "config_list[1]['exclude']", ["is 1 (int), not True or False"]),
        ({"sparsity": 0.5}, "config_list[1]", ["neither 'op_types' nor 'op_names'", "['default']"]),
        ({"op_types": ["Conv2d"]}, "config_list[1]", ["neither 'sparsity' nor 'exclude'", "'sparsity': 0.5"]),
        ({"op_types": ["Conv2d"], "exclude": False}, "config_list[1]", ["neither 'sparsity' nor 'exclude'"]),
        ({}, "config_list[1]", ["neither"]),
        ("Conv2d", "config_list[1]", ["is 'Conv2d' (str), not a dict"]),
        (None, "config_list[1]", ["not a dict"]),
    ],
)
def test_a_wrong_entry_is_named_with_its_key_and_the_remedy(entry, place, words):
    with pytest.raises(ConfigError) as caught:
        read_entries([GOOD, entry])
    message = str(caught.value)
    assert message.startswith((place + " ", place + ":"))
    assert all(word in message for word in words), message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("config_list", "words"),
    [
        (GOOD, "put it in a list"),
        ([], "is empty"),
        ((), "is empty"),
        (None, "is a NoneType, not a list"),
        ("config", "is a str, not a list"),
        (iter([GOOD]), "not a list"),
    ],
)
def test_what_is_not_a_list_of_dicts_is_refused(config_list, words):
    with pytest.raises(ConfigError, match=words):
        read_entries(config_list)
