from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import unescape

import pytest

from tests.support.reports import example_report
from torchpare.errors import MissingExtraError
from torchpare.report import Amount, Layer, Proof, Row, render_html, write_html

REPORT = example_report()


@pytest.fixture(scope="module")
def page() -> str:
    return render_html(REPORT)


def test_the_page_is_well_formed(page):
    kind, rest = page.split("\n", 1)
    assert kind == "<!DOCTYPE html>"
    ET.fromstring(rest)


def test_the_page_refers_to_nothing_outside_itself(page):
    assert re.findall(r"https?:|//[a-z]|@import|url\(", page) == []
    tree = ET.fromstring(page.split("\n", 1)[1])
    assert [e.tag for e in tree.iter() if e.tag in ("script", "img", "iframe", "object", "embed", "video")] == []
    links = [e.attrib[key] for e in tree.iter() for key in ("href", "src", "srcset") if key in e.attrib]
    assert links == ["data:,"]  # an empty icon, so that no browser asks for one


def test_the_page_says_every_number_of_the_report(page):
    told = unescape(page)
    for row in REPORT.rows:
        for words in (row.name, row.say(row.dense), row.say(row.small), " ".join(row.change), row.note):
            assert words in told
    for proof in REPORT.proofs:
        assert proof.statement in told
    for layer in REPORT.layers:
        assert f"{layer.name}: {layer.after} of {layer.before} channels" in told
    for facts in (REPORT.settings, REPORT.environment):
        for name, value in facts.items():
            assert name in told
            assert value in told


def test_names_cannot_break_out_of_the_page(page):
    assert "<small>" not in page.split("</style>")[1].replace("<small>fewer", "").replace("<small>faster", "").replace(
        "<small>points", ""
    )
    assert "A net &amp; its &lt;small&gt; twin" in page
    assert "conv&lt;1&gt;" in page


def test_it_follows_light_and_dark_fits_a_phone_and_prints(page):
    assert "prefers-color-scheme: dark" in page
    assert 'content="width=device-width, initial-scale=1"' in page
    assert "@media (max-width:" in page
    assert "@media print" in page


def test_bars_are_as_long_as_their_numbers():
    row = Row("Parameters", "count", Amount(400.0), Amount(100.0), "", "fewer", "more")
    tree = ET.fromstring(render_html(replace(REPORT, rows=(row,), headlines=())).split("\n", 1)[1])
    bars = {e.attrib["class"]: float(e.attrib["width"]) for e in tree.iter("rect") if e.attrib["class"] != "ghost"
            and "Parameters" in "".join(e.itertext())}  # fmt: skip
    assert bars["dense"] == pytest.approx(4 * bars["small"], abs=0.05)


def test_a_failed_proof_is_said_in_the_heading():
    page = render_html(replace(REPORT, proofs=(Proof("small to masked", 1.0, 1e-10),)))
    assert "Not the same" in page
    assert 'class="no"' in page


def test_a_report_of_little_is_a_page_without_empty_sections():
    bare = replace(REPORT, rows=(), proofs=(), layers=(), curves=(), headlines=(), measurements={}, settings={})
    page = render_html(bare)
    ET.fromstring(page.split("\n", 1)[1])
    assert "<svg" not in page


def test_many_layers_are_laid_out_in_two_columns():
    layers = tuple(Layer(f"layer{i}", 8, 4) for i in range(20))
    assert render_html(replace(REPORT, layers=layers, curves=(), rows=(), headlines=())).count("<svg") == 2


def test_writing_the_page_leaves_one_file(tmp_path):
    write_html(REPORT, tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_html(REPORT)


def test_without_jinja2_one_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"torchpare\[report\]"):
        render_html(REPORT)
