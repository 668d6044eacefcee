from __future__ import annotations

import json

import pytest

from tests.support.reports import example_report
from torchpare.errors import FileError
from torchpare.report import Amount, Measurement, Proof, Row, latency_row, read_report, shares_row

TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"


def test_a_fall_is_a_gain_and_a_rise_is_a_loss():
    def row(dense, small):
        return Row("x", "seconds", Amount(dense), Amount(small), "", "faster", "slower")

    assert row(3.0, 1.0).change == (f"3.0{TIMES}", "faster")
    assert row(1.0, 3.0).change == (f"3.0{TIMES}", "slower")
    assert row(1.0, 1.01).change == (f"1.0{TIMES}", "as much")


def test_accuracy_changes_in_points_and_is_told_with_its_spread():
    row = shares_row("Test accuracy", [0.98, 0.99, 1.0], [0.97, 0.98, 0.99], "")
    assert row.change == (f"{MINUS}1.00", "points")
    assert row.say(row.dense) == "99.00 ± 1.00 %"
    assert row.say_value(row.dense) == "99.00 %"


def test_one_run_has_no_spread():
    row = shares_row("Test accuracy", [0.98], [0.97], "")
    assert row.say(row.dense) == "98.00 %"
    assert row.say_interval(row.dense) == ""


def test_a_latency_row_tells_medians_quartiles_and_how_they_were_found():
    dense = Measurement(0.02, 0.019, 0.022, 60, 2, "PyTorch 2", "here")
    row = latency_row("PyTorch, batch 1", dense, Measurement(0.01, 0.009, 0.011, 60, 2, "PyTorch 2", "here"))
    assert row.say(row.dense) == "20.0 ms"
    assert row.say_interval(row.dense) == "19.0 ms to 22.0 ms"
    assert "60" in row.note
    assert "2 threads" in row.note


def test_a_proof_holds_up_to_its_tolerance():
    assert Proof("same", 0.0, 0.0).holds
    assert not Proof("same", 1e-12, 0.0).holds
    assert not Proof("same", float("nan"), 1.0).holds


def test_a_report_is_read_back_as_it_was_written(tmp_path):
    report = example_report()
    report.write_json(tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report.to_dict()))


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "the file"), (b"[1]", "the file"), (b"{}", "title"), (b'{"title": 3}', "title"), (b"\xff\x00", "the file")],
)
def test_a_file_that_is_no_report_is_refused_by_name(tmp_path, content, what):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(FileError, match=rf"report\.json: is not a report \({what}"):
        read_report(tmp_path / "report.json")


def test_a_report_that_is_not_there_is_said_to_be_so(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        read_report(tmp_path / "report.json")
