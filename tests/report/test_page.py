from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from html import unescape
from itertools import pairwise

import pytest

from torchpare.errors import ConfigError, MissingExtraError
from torchpare.report import (
    Cell,
    ChartBlock,
    CodeBlock,
    Column,
    DetailsBlock,
    FactsBlock,
    Headline,
    Page,
    RowBlock,
    Section,
    TableBlock,
    TextBlock,
    Verdict,
    render_page,
    svg,
    write_page,
)

PICTURE = svg.picture(100, 20, "a bar", svg.rect(0, 0, 50, 10, "small", tip="half"))
HOSTILE = '<script>alert(1)</script>\x00\x1b[31m\ud800 & "it\'s"'


def page_of(*blocks, **more) -> Page:
    return Page("A page", sections=(Section("Things", "Of all kinds.", blocks),), **more)


def tree_of(page: Page) -> ET.Element:
    kind, rest = render_page(page).split("\n", 1)
    assert kind == "<!DOCTYPE html>"
    return ET.fromstring(rest)


def said(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def every_block() -> Page:
    rows = [["conv1", 118_013_952, Cell("6.5 %", share=0.065)], ["fc", 0.5, None]]
    table = TableBlock(["layer", "MACs", Column("share", numeric=True)], rows, "counted", "Layers")
    return Page(
        "A net & its <small> twin",
        "Half of it is gone.",
        Verdict("It is 2 times as fast", "good", "asked was 1.5 times"),
        (
            Section("Text", "Words.", (TextBlock("one\n\ntwo"), TextBlock("beware", "bad"))),
            Section("Table", blocks=(table,)),
            Section("Charts", blocks=(RowBlock((ChartBlock(PICTURE, "a bar", "one bar of half the width"),) * 2),)),
            Section("Facts", blocks=(FactsBlock({"torch": "2.13"}), CodeBlock("a:\n  b: 1", "recipe"))),
            Section("Folded", blocks=(DetailsBlock("all of it", (table,)),)),
        ),
        (Headline("Latency", "2.0 times", "faster", "8 ms → 4 ms", "good"),),
        {"Machine": "2 cores"},
    )


def test_every_kind_of_block_is_on_a_well_formed_page():
    tree = tree_of(every_block())
    words = said(tree.find("body"))
    for expected in ("A net & its <small> twin", "Half of it is gone.", "It is 2 times as fast", "asked was 1.5 times",
                     "one", "two", "beware", "118,013,952", "6.5 %", "counted", "2.13", "all of it", "2.0 times",
                     "2 cores"):  # fmt: skip
        assert expected in words
    assert len(list(tree.iter("svg"))) == 2
    assert [e.text for e in tree.iter("pre")] == ["a:\n  b: 1"]


def test_the_page_refers_to_nothing_outside_itself_and_runs_nothing():
    text = render_page(every_block())
    assert re.findall(r"https?:|//[a-z]|@import|url\(|<script", text) == []
    tree = tree_of(every_block())
    links = {e.attrib[key] for e in tree.iter() for key in ("href", "src") if key in e.attrib}
    assert links == {"data:,", "#s1", "#s2", "#s3", "#s4", "#s5"}
    ids = [e.attrib["id"] for e in tree.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))


def test_headings_descend_without_a_gap():
    levels = [int(e.tag[1]) for e in tree_of(every_block()).iter() if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_chart_has_words_for_those_who_do_not_see_it():
    for chart in [e for e in tree_of(every_block()).iter("div") if e.get("class") == "chart"]:
        assert chart.get("role") == "img"
        assert chart.get("aria-label") == "one bar of half the width"
    with pytest.raises(ConfigError, match="alt is empty"):
        ChartBlock(PICTURE, "a bar", " ")


def test_names_cannot_break_out_of_the_page():
    picture = svg.picture(10, 10, HOSTILE, svg.text(0, 8, HOSTILE), svg.rect(0, 0, 1, 1, "small", tip=HOSTILE))
    table = TableBlock([HOSTILE], [[HOSTILE], [Cell(HOSTILE, note=HOSTILE)]], HOSTILE, HOSTILE)
    blocks = (
        TextBlock(HOSTILE), table, ChartBlock(picture, HOSTILE, HOSTILE, HOSTILE), FactsBlock({HOSTILE: HOSTILE}),
        CodeBlock(HOSTILE, HOSTILE), DetailsBlock(HOSTILE, (TextBlock(HOSTILE),)),
    )  # fmt: skip
    page = Page(
        HOSTILE, HOSTILE, Verdict(HOSTILE, "bad", HOSTILE), (Section(HOSTILE, HOSTILE, blocks),),
        (Headline(HOSTILE, HOSTILE, HOSTILE, HOSTILE),), {HOSTILE: HOSTILE}, HOSTILE, HOSTILE,
    )  # fmt: skip
    text = render_page(page)
    assert "<script" not in text
    assert "\x00" not in text
    assert not list(tree_of(page).iter("script"))
    text.encode("utf-8")
    assert "<script>alert(1)</script>�" in unescape(text).replace("<wbr/>", "")


@pytest.mark.parametrize("bad", ["<p>no</p>", "words", "<svg><script>1</script></svg>", "<svg onload='x()'/>", "<svg>",
                                 "<svg><a href='x'/></svg>", "<!DOCTYPE svg><svg/>", "<svg><image href='x.png'/></svg>",
                                 "<svg/><svg/>"])  # fmt: skip
def test_a_chart_is_shapes_and_words_and_nothing_that_runs(bad):
    with pytest.raises(ConfigError, match="svg"):
        ChartBlock(bad, "a chart", "a chart")


def test_rows_are_as_long_as_the_head():
    with pytest.raises(ConfigError, match="row 1 has 1 places and there are 2 columns"):
        TableBlock(["a", "b"], [["x", 1], ["y"]])


def test_columns_of_numbers_are_set_flush_right():
    tree = tree_of(page_of(TableBlock(["name", "count", "word"], [["a", 1, "x"], ["b", None, "y"]])))
    assert [th.get("class") for th in tree.find(".//thead/tr")] == ["words", "number", "words"]


def test_a_bar_behind_a_number_is_as_long_as_its_share():
    row = [Cell("a"), Cell("1", share=0.25), Cell("2", share=7.0), Cell("3", share=-1.0)]
    tree = tree_of(page_of(TableBlock(["name", "x", "y", "z"], [row])))
    assert [td.get("style") for td in tree.iter("td")] == ["--share: 25.0%", "--share: 100.0%", "--share: 0.0%"]


def test_long_names_may_go_on_in_the_next_line_and_numbers_may_not():
    page = render_page(page_of(TableBlock(["name", "why"], [["model.layers.0.q_proj", "0.85 <= a/b"]])))
    assert "model.<wbr/>layers.<wbr/>0.<wbr/>q_<wbr/>proj" in page
    assert "0.85 &lt;= a/<wbr/>b" in page


def test_sections_without_anything_in_them_are_left_out():
    tree = tree_of(Page("Bare", sections=(Section("Nothing"), Section("Something", "here"))))
    assert [e.text for e in tree.iter("h2")] == ["Something"]
    assert [e.text for e in tree_of(Page("Bare")).iter("h1")] == ["Bare"]


def test_a_page_of_one_table_of_300_rows_holds_them_all():
    rows = [[f"encoder.layer.{i}.attention.self.query", i] for i in range(300)]
    assert len(tree_of(page_of(TableBlock(["layer", "MACs"], rows))).findall(".//tbody/tr")) == 300


def test_a_page_knows_itself_as_json(tmp_path):
    page = every_block()
    page.write_json(tmp_path / "page.json")
    told = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert told == page.to_dict()
    assert told["sections"][1]["blocks"][0]["rows"][0][2] == {"text": "6.5 %", "tone": "", "share": 0.065, "note": ""}


def test_writing_the_page_leaves_one_file(tmp_path):
    write_page(every_block(), tmp_path / "page.html")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == render_page(every_block())


def test_without_jinja2_one_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"torchpare\[report\]"):
        render_page(Page("Bare"))
