"""Figures on the home page are those of the measured files; drawings are well formed and agree on their colours."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest

from tests.support.pages import PAGES, ROOT, text_of

DOCS = ROOT / "docs"
DRAWINGS = sorted((DOCS / "figures").glob("*.svg"))
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
HOME = " ".join(text_of("docs/index.md").split())


def test_the_home_page_counts_the_zoo():
    good = total = 0
    for line in re.findall(r"^- \w+: (\d+) of (\d+) models", text_of("docs/zoo.md"), re.MULTILINE):
        good, total = good + int(line[0]), total + int(line[1])
    assert f"**{good} of {total}** models of four suites" in HOME


def test_the_home_page_tells_the_speed_that_was_measured():
    measured = json.loads((DOCS / "speed" / "deploy.json").read_text())
    dense, both = (
        next(
            row for row in measured if (row["model"], row["runtime"], row["form"]) == ("resnet50", "ONNX Runtime", form)
        )
        for form in ("dense", "pruned + int8")
    )
    assert f"**{dense['median'] / both['median']:.1f} times** as fast in ONNX Runtime" in HOME
    assert f"**{dense['file_bytes'] / both['file_bytes']:.0f} times** smaller" in HOME


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_is_well_formed_described_and_shown(drawing):
    root = ET.fromstring(drawing.read_text(encoding="utf-8"))
    assert root.attrib["role"] == "img"
    assert len(root.attrib["aria-label"]) > 20
    assert any(f"figures/{drawing.name}" in text_of(page) for page in PAGES)


def test_drawings_share_one_style_and_the_site_its_colours():
    styles = {match[1] for path in DRAWINGS for match in STYLE.finditer(path.read_text(encoding="utf-8"))}
    assert len(styles) == 1
    colours = re.findall(r"--[\w-]+: #\w+", styles.pop())
    sheet = (DOCS / "assets" / "site.css").read_text(encoding="utf-8")
    assert len(colours) == 22
    assert all(colour in sheet for colour in colours)
