"""Terms from plain data, as recipes list them, and what cannot be one."""

from __future__ import annotations

import pytest

from torchpare.distillation import (
    AttentionMaps,
    AttentionScores,
    FeatureTerm,
    HiddenStates,
    Relations,
    SoftTargets,
    Teacher,
    TokenRelations,
    dense_teacher,
    terms_from_config,
)
from torchpare.distillation.config import TERMS
from torchpare.errors import ConfigError


def test_terms_are_what_the_same_arguments_make():
    assert terms_from_config(
        [
            "soft_targets",
            {"soft_targets": {"temperature": 2, "weight": 0.5, "next_token": True}},
            {"hidden_states": {"layers": ["layer1", ["layer2", "layer3"]], "weight": 2}},
            {"attention_maps": {"layers": ["layer1"], "channels": "all"}},
            {"attention_scores": {"layers": ["attention[1]"], "mask": None}},
            {"relations": {"layers": ["fc"], "distance": 25, "angle": 50.0}},
            {"token_relations": {"layers": ["value"], "heads": 12}},
        ]
    ) == [
        SoftTargets(),
        SoftTargets(2, 0.5, next_token=True),
        HiddenStates(["layer1", ["layer2", "layer3"]], 2),
        AttentionMaps(["layer1"], channels="all"),
        AttentionScores(["attention[1]"], mask=None),
        Relations(["fc"], distance=25, angle=50.0),
        TokenRelations(["value"], heads=12),
    ]


def test_every_kind_of_term_can_stand_in_a_recipe():
    kinds = {kind for kind in FeatureTerm.__subclasses__() if kind.__module__.startswith("torchpare.distillation.")} | {
        SoftTargets
    }
    assert set(TERMS.values()) == kinds


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"soft_targets": {}}, "terms is {'soft_targets': {}}, not a list of terms such as"),
        ([], r"terms is \[\], not a list"),
        ([3], r"terms\[0\] is 3, not a dict with one key, the kind of term: 'soft_targets', 'hidden_states'"),
        ([{"soft_targets": {}, "relations": {}}], r"terms\[0\] is .*, not a dict with one key"),
        ([{"soft_target": {}}], r"terms\[0\]\['soft_target'\]: there is no such term; did you mean 'soft_targets'\?"),
        ([{"x": {}}], r"terms\[0\]\['x'\]: there is no such term; There are 'soft_targets'"),
        ([{"soft_targets": [4]}], r"terms\[0\]\['soft_targets'\] is \[4\], not a dict of arguments"),
        (
            [{"soft_targets": {"temprature": 4}}],
            r"\['temprature'\]: there is no such key; did you mean 'temperature'\?",
        ),
        ([{"hidden_states": None}], r"terms\[0\]\['hidden_states'\] has no 'layers', which it needs"),
        (["soft_targets", {"soft_targets": {"temperature": 0}}], r"terms\[1\]: soft_targets: temperature is 0; give a"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_with_its_place(config, message):
    with pytest.raises(ConfigError, match=message):
        terms_from_config(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftTargets(temperature=-1), "soft_targets: temperature is -1; give a number above 0"),
        (lambda: SoftTargets(temperature=float("nan")), "temperature is nan"),
        (lambda: SoftTargets(temperature=True), "temperature is True"),
        (lambda: SoftTargets(weight="much"), "soft_targets: weight is 'much'; give a number from 0 on"),
        (lambda: SoftTargets(next_token=1), "soft_targets: next_token is 1; it is bool"),
        (lambda: SoftTargets(axis=True), "soft_targets: axis is True; it is int"),
        (lambda: SoftTargets(output=2.5), "soft_targets: output is 2.5; it is str or int or None"),
        (
            lambda: HiddenStates("layer1"),
            r"hidden_states: layers is 'layer1', not a list of names .* give \['layer1'\]",
        ),
        (lambda: HiddenStates([]), r"layers is \[\], not a list"),
        (
            lambda: HiddenStates([("a", "b", "c")]),
            r"layers\[0\] is \('a', 'b', 'c'\); give the name of a layer, or a pair",
        ),
        (lambda: HiddenStates([""]), "'' names no layer; give a name such as 'layer1'"),
        (lambda: HiddenStates(["layer[x"]), r"'layer\[x' names no layer"),
        (lambda: HiddenStates(["a"], weight=-1), "hidden_states: weight is -1"),
        (lambda: HiddenStates(["a"], mask=1), "hidden_states: mask is 1; give the name of an input"),
        (lambda: AttentionMaps(["a"], channels="some"), "attention_maps: channels is 'some'; it is 'kept' or 'all'"),
        (lambda: AttentionScores(["a"], channels="all"), "heads are compared one by one"),
        (lambda: Relations(["a"], distance=0, angle=0), "both 0, so nothing is compared"),
        (lambda: Relations(["a"], angle=-2), "relations: angle is -2"),
        (lambda: TokenRelations(["a"], heads=0), "token_relations: heads is 0; give a whole number from 1 on"),
        (lambda: Teacher("model"), "a teacher is a torch.nn.Module, got str"),
        (lambda: dense_teacher("model"), "dense_teacher needs a torch.nn.Module, got str"),
    ],
)
def test_what_cannot_be_an_argument(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
