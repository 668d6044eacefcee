"""What the model is worth with one layer pruned: the analysis as a value, its order and its files."""

from __future__ import annotations

import json

import pytest
import torch

from tests.search.nets import Chain, likelihood, trained
from torchpare.errors import ConfigError
from torchpare.insight import Sensitivity, sensitivity
from torchpare.report import Page, Section, render_page
from torchpare.search.sensitivity import read_sensitivity
from torchpare.utils import SensitivityAnalysis


@pytest.fixture(scope="module")
def found():
    return sensitivity(trained(Chain), likelihood, [0.25, 0.5])


def test_values_are_those_of_the_analysis(found):
    model = trained(Chain)
    assert found.rows == SensitivityAnalysis(model, likelihood, [0.25, 0.5]).analysis()
    assert found.dense == likelihood(model)
    assert found.sparsities == (0.25, 0.5)


def test_the_most_sensitive_layer_comes_first_and_what_was_not_tried_counts_as_the_worst():
    rows = {"tough": {0.5: 0.9, 0.8: 0.9}, "weak": {0.5: 0.2}, "middling": {0.5: 0.9, 0.8: 0.4}}
    assert Sensitivity(rows, 0.9, "l1").most_sensitive == ("weak", "middling", "tough")
    turned = {name: {share: 1 - value for share, value in row.items()} for name, row in rows.items()}
    assert Sensitivity(turned, 0.1, "l1", more_is_better=False).most_sensitive == ("weak", "middling", "tough")


def test_rows_end_where_more_is_lost_than_may_be():
    values = iter([0.9, 0.85, 0.6, 0.1])
    found = sensitivity(trained(Chain), lambda model: next(values), [0.2, 0.4, 0.6], largest_drop=0.2, layers=["stem"])
    assert found.rows == {"stem": {0.2: 0.85, 0.4: 0.6}}


def test_the_table_is_written_as_the_analysis_writes_it(found, tmp_path):
    found.export(tmp_path / "s.csv")
    assert read_sensitivity(tmp_path / "s.csv") == found.rows
    analysis = SensitivityAnalysis(trained(Chain), likelihood, [0.25, 0.5])
    analysis.analysis()
    analysis.export(tmp_path / "t.csv")
    assert (tmp_path / "s.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()


def test_the_heat_map_is_on_the_page_and_in_json(found):
    page = render_page(Page("x", sections=(Section("y", blocks=found.blocks()),)))
    assert "inner at 50%" in page
    assert json.loads(json.dumps(found.to_dict()))["rows"]["stem"]["0.5"] == found.rows["stem"][0.5]


def test_the_model_is_only_read():
    model = trained(Chain).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sensitivity(model, likelihood, [0.5])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="'head' is no layer that 'l1' can prune"):
        sensitivity(trained(Chain), likelihood, layers=["head"])
