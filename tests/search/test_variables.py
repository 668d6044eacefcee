"""Layers that can only lose channels together are turned together; those that can lose none are left out."""

from __future__ import annotations

import logging

from tests.search.nets import Chain, example, trained
from torchpare.graph import analyse
from torchpare.search.variables import Layer, variables_of

LAYERS = {"wide": Layer(16, 144), "stem": Layer(6, 96), "inner": Layer(6, 324), "head": Layer(2, 12)}


def test_a_residual_ties_its_layers_and_the_head_is_left_out(caplog) -> None:
    caplog.set_level(logging.INFO)
    found = variables_of(LAYERS, analyse(trained(Chain), example()))
    assert [(v.layers, v.units, v.weights) for v in found] == [(("wide",), 16, 144), (("stem", "inner"), 6, 420)]
    assert "head is left out of the search" in caplog.text
    assert found[1].name == "stem"
    assert found[1].most == 5 / 6


def test_a_layer_tied_to_one_that_is_not_selected_is_left_out_and_named(caplog) -> None:
    caplog.set_level(logging.INFO)
    layers = {name: LAYERS[name] for name in ("wide", "stem")}
    found = variables_of(layers, analyse(trained(Chain), example()))
    assert [v.layers for v in found] == [("wide",)]
    assert "stem is left out of the search: it shares channels with inner" in caplog.text


def test_without_an_analysis_each_layer_is_on_its_own_and_single_units_are_left_out() -> None:
    found = variables_of({**LAYERS, "one": Layer(1, 9)}, None)
    assert [v.layers for v in found] == [("wide",), ("stem",), ("inner",), ("head",)]
