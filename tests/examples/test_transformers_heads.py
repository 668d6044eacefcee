"""The transformers of the example: they learn, lose half of their heads and widths, learn on, speak, are saved."""

from __future__ import annotations

import re

import pytest

from tests.support.vision import torchvision_models

torchvision_models()  # before transformers, which imports it too
pytest.importorskip("transformers")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "vit", "llama"])
def test_a_transformer_loses_half_of_its_heads_and_widths_learns_on_and_is_saved(name, capsys):
    from examples import transformers_heads

    transformers_heads.compress(name, steps=60)
    said = capsys.readouterr().out
    before, after = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) -> ([\d,]+) parameters", said)[0])
    assert 0.4 < after / before < 0.8
    assert "exact: True" in said
    _, tuned, first, last = map(float, re.findall(r"\d+\.\d{3}", said.split("loss: ")[1].split("\n")[0]))
    assert last < first < tuned + 0.5
    assert "the same: True" in said
    if name == "llama":
        assert re.search(r"it says: ([\d ]+)", said)[1].split() == ["7", "8", "9", "10"] * 2
