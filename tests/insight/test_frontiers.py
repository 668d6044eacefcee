"""Accuracy against latency: the frontier is what nobody beats."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchpare.errors import ConfigError
from torchpare.insight import Frontier, FrontierPoint
from torchpare.report import Measurement, Page, Section, render_page
from torchpare.report.frontier_figure import frontier, frontier_chart
from torchpare.search.frontier import MixedPrecision, Point

POINTS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(1, 6).map(float), st.integers(0, 5).map(float)),
    min_size=1,
    max_size=12,
).map(lambda rows: [FrontierPoint(f"{name}{number}", *rest) for number, (name, *rest) in enumerate(rows)])


@given(POINTS)
def test_on_the_frontier_is_whoever_is_not_beaten(points):
    best = frontier(points)

    def beats(a, b):
        return (
            a.seconds <= b.seconds and a.accuracy >= b.accuracy and (a.seconds, a.accuracy) != (b.seconds, b.accuracy)
        )

    unbeaten = {(p.seconds, p.accuracy) for p in points if not any(beats(other, p) for other in points)}
    assert {(p.seconds, p.accuracy) for p in best} == unbeaten
    assert len(best) == len(unbeaten)
    assert [p.seconds for p in best] == sorted(p.seconds for p in best)


@given(POINTS)
def test_every_point_lies_within_the_picture(points):
    tree = ET.fromstring(frontier_chart(points, "x", shares=False))
    dots = list(tree.iter("circle"))
    assert len(dots) == len(points)
    width, height = map(float, tree.attrib["viewBox"].split()[2:])
    assert all(0 <= float(d.attrib["cx"]) <= width and 0 <= float(d.attrib["cy"]) <= height for d in dots)


def test_faster_lies_to_the_left_and_better_above():
    tree = ET.fromstring(frontier_chart([FrontierPoint("a", 1.0, 0.8), FrontierPoint("b", 2.0, 0.9)], "x"))
    at = {dot.find("title").text[0]: (float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in tree.iter("circle")}
    assert at["a"][0] < at["b"][0]
    assert at["a"][1] > at["b"][1]


def test_points_are_given_as_they_are_measured():
    taken = Measurement(0.004, 0.003, 0.005, 10, 1, "x", "y")
    found = Frontier.of([("dense", taken, 0.95), ("small", 0.002, 0.94), FrontierPoint("bad", 0.01, 0.5)])
    assert found.points[0] == FrontierPoint("dense", 0.004, 0.95, 0.003, 0.005)
    assert [point.name for point in found.best] == ["small", "dense"]
    assert [point["best"] for point in json.loads(json.dumps(found.to_dict()))["points"]] == [True, True, False]
    assert "94.00 %" in render_page(Page("x", sections=(Section("y", blocks=found.blocks()),)))


def test_what_a_search_for_bits_found_is_a_frontier():
    points = (Point({"a": 8}, 0.9, 0.5, enough=True), Point({"a": 32}, 0.92, 1.0, enough=True))
    found = Frontier.of_search(MixedPrecision(points, 0.8, 0.92, "onnxruntime", {}), dense_seconds=0.01)
    assert [(point.name, point.seconds) for point in found.points] == [("1 of 8 bits", 0.005), ("1 of 32 bits", 0.01)]


def test_scores_that_are_no_shares_are_not_told_as_percentages():
    page = render_page(Page("x", sections=(Section("y", blocks=Frontier.of([("a", 1.0, 31.5)]).blocks()),)))
    assert "31.5" in page
    assert "3150" not in page


@pytest.mark.parametrize("points", [[], [("a", 0.0, 0.5)], [("a", 1.0, float("nan"))], [("a", float("inf"), 0.5)]])
def test_points_that_are_none_are_refused(points):
    with pytest.raises(ConfigError, match=r"needs points|seconds are above 0"):
        Frontier.of(points)
