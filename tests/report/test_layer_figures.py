"""Charts of layers: lengths are their numbers, words fit, files stand alone."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchpare.errors import ConfigError, MissingExtraError
from torchpare.report import numbers, svg
from torchpare.report.heat import damage, heat_map, write_heat_map
from torchpare.report.layer_figures import Bar, Dots, Span, bars, dots, skyline, spans
from torchpare.report.standalone import standalone

ROWS = {"conv<1>": {0.25: 0.9, 0.5: 0.8}, "fc": {0.25: 0.95}}


def shapes(picture, tag, css):
    return [e for e in ET.fromstring(picture).iter(tag) if e.attrib.get("class") == css]


@given(st.text(max_size=80), st.integers(40, 200))
def test_a_shortened_name_has_room(name, room):
    assert svg.width_of(svg.shortened(name, room)) <= max(room, svg.width_of("…"))


@pytest.mark.parametrize(
    ("name", "short"),
    [("conv1", "conv1"), ("layer4.0.downsample.0", "…er4.0.downsample.0"),
     ("encoder.layer.11.attention.self.query", "…11.att….self.query"),
     ("model.layers.31.self_attn.q_proj", "…31.self_at….q_proj"), ("x" * 40, "…" + "x" * 18)],
)  # fmt: skip
def test_a_shortened_name_keeps_the_numbers_of_its_blocks(name, short):
    assert svg.shortened(name, 144) == short


def test_the_two_sides_of_a_pair_of_layers_stay_apart():
    names = [f"bert.encoder.layer.{i}.{part}" for i in range(12) for part in ("intermediate.dense", "output.dense",
             "attention.self.query", "attention.self.key", "attention.output.dense")]  # fmt: skip
    assert len({svg.shortened(name, 144) for name in names}) == len(names)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_within(low, span):
    found = svg.ticks(low, low + span)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-6 * span - 1e-6 <= tick <= low + span + 1e-6 * span + 1e-6 for tick in found)


def test_bars_are_as_long_as_their_numbers():
    picture = bars([Bar("a", 0.5, "half"), Bar("b", 0.25, "quarter")], "x")
    long, short = (float(bar.attrib["width"]) for bar in shapes(picture, "rect", "accent"))
    assert long == pytest.approx(2 * short, abs=0.02)


def test_spans_are_on_a_scale_of_their_own_with_zero_in_the_middle():
    picture = spans([Span("a", -2, 4, -1, 1, "4.0"), Span("b", -200, 400, -100, 100, "4.0")], "x", key=("most", "all"))
    first, second = (
        e for e in shapes(picture, "rect", "accent") if float(e.attrib["height"]) == 10 and float(e.attrib["y"]) > 20
    )
    assert first.attrib["width"] == second.attrib["width"]
    middle = float(shapes(picture, "line", "grid")[0].attrib["x1"])
    assert float(first.attrib["x"]) + float(first.attrib["width"]) / 2 == pytest.approx(middle, abs=0.02)


def test_dots_lie_in_the_order_of_their_values_and_unknown_ones_are_left_out():
    rows = [Dots("a", [30.0, 20.0, 40.0]), Dots("b", [None, 10.0, None])]
    picture = dots(rows, "x", key=("one", "two", "three"), low=0, high=50, unit="dB")
    full = [float(e.attrib["cx"]) for e in shapes(picture, "circle", "accent dot")[1:]]
    rings = [float(e.attrib["cx"]) for e in shapes(picture, "circle", "ring")[1:]]
    assert len(full) == 1
    assert rings[1] < rings[0] < full[0]


def test_a_skyline_has_a_bar_for_each_of_many_layers():
    picture = skyline([float(i) for i in range(300)], [f"layer {i}" for i in range(300)], "x")
    found = shapes(picture, "rect", "accent")
    assert len(found) == 300
    assert float(found[200].attrib["height"]) == pytest.approx(2 * float(found[100].attrib["height"]), abs=0.05)


def test_damage_is_what_is_lost_against_the_dense_model():
    assert damage(ROWS, 0.95)["conv<1>"] == pytest.approx({0.25: 0.05, 0.5: 0.15})
    assert damage(ROWS)["fc"] == {0.25: 0.0}
    assert damage({"a": {0.5: 2.0, 0.6: 0.5}}, 1.0, more_is_better=False)["a"] == {0.5: 1.0, 0.6: 0.0}


def test_the_strength_of_a_cell_is_what_is_lost():
    picture = heat_map(ROWS, "x", dense=0.95)
    cells = {
        e.find("title").text.split(":")[0]: e for e in shapes(picture, "rect", "heat") if e.find("title") is not None
    }
    assert float(cells["conv<1> at 25%"].attrib["fill-opacity"]) == pytest.approx(1 / 3, abs=0.01)
    assert "fill-opacity" not in cells["conv<1> at 50%"].attrib  # all of it
    assert [e.find("title").text for e in shapes(picture, "rect", "untried")] == ["fc at 50%: not tried"]


def test_a_heat_map_is_written_as_a_picture_that_stands_alone(tmp_path):
    write_heat_map(ROWS, tmp_path / "heat.svg")
    root = ET.parse(tmp_path / "heat.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    style = root.find("{http://www.w3.org/2000/svg}style").text
    assert "svg .heat" in style
    assert "prefers-color-scheme: dark" in style
    write_heat_map(ROWS, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["heat.png", "heat.svg"]


def test_what_cannot_be_drawn_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"as .svg or .png"):
        write_heat_map(ROWS, tmp_path / "heat.jpg")
    with pytest.raises(ConfigError, match="call analysis"):
        write_heat_map({}, tmp_path / "heat.svg")
    with pytest.raises(ConfigError, match="no picture of torchpare"):
        standalone("<p>")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"torchpare\[report\]"):
        write_heat_map(ROWS, tmp_path / "heat.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (2.9, "2.90"), (-0.0737, "~0.0737"), (123456.0, "123000"), (100.0, "100"), (8.166e-10, "8.2 * 10⁻¹⁰"),
     (-2.628e-5, "~2.6 * 10⁻⁵"), (999.7, "1000"), (float("inf"), "inf")],
)  # fmt: skip
def test_numbers_of_any_size_have_three_digits(value, words):
    assert numbers.signed(value) == words.replace("*", "\N{MULTIPLICATION SIGN}").replace("~", "\N{MINUS SIGN}")
