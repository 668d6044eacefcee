"""Pages as a reader has them: opened from the disk, light and dark, on a telephone, on paper."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from tests.browser.pages import PAGES

every_page = pytest.mark.parametrize("name", PAGES)
pytestmark = pytest.mark.slow

CHARTS = """() => [...document.querySelectorAll('svg')].map(svg => {
  const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal, scale = box.width / view.width;
  const outside = [...svg.querySelectorAll('text')].filter(text => {
    const own = text.getBBox();
    const room = 2.5;  // letters are set to whole pixels, so that small ones come out wider than drawn
    return own.x < -room || own.y < -room || own.x + own.width > view.width + room ||
      own.y + own.height > view.height + room;
  }).map(text => text.textContent);
  return {width: box.width, height: box.height, shapes: svg.childElementCount, outside, scale};
})"""

MEETING = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.getBBox(), text.textContent]);
  return boxes.flatMap(([a, one], at) => boxes.slice(at + 1).filter(([b]) =>
    a.x + 1 < b.x + b.width && b.x + 1 < a.x + a.width && a.y + 3 < b.y + b.height && b.y + 3 < a.y + a.height
  ).map(([, other]) => one + ' | ' + other));
})"""

CONTRAST = """() => {
  const channel = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const bright = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || ['STYLE', 'title'].includes(element.tagName)) continue;
    const style = getComputedStyle(element), svg = element instanceof SVGElement;
    const [a, b] = [bright(parse(svg ? style.fill : style.color)), bright(ground(element))].sort((x, y) => y - x);
    const kind = element.tagName + '.' + (element.getAttribute('class') ?? '');
    found[kind] = Math.min(found[kind] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return found;
}"""


@every_page
def test_it_opens_from_the_disk_and_asks_for_nothing_else(opened, files, name):
    page = opened(name)
    assert page.asked == [files[name].as_uri()]
    assert page.complaints == []
    assert page.title() != "owned"
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('img, iframe, object, embed').length") == 0


@every_page
@pytest.mark.parametrize("width", [1280, 360])
def test_every_chart_is_there_and_its_words_lie_within_it(opened, name, width):
    charts = opened(name, width=width).evaluate(CHARTS)
    assert bool(charts) == (name != "bare")
    for chart in charts:
        assert chart["width"] > 200
        assert chart["height"] > 10
        assert chart["shapes"] > 1
        assert chart["outside"] == []


@pytest.mark.parametrize("name", ["ordinary", "deep", "demo", "run", "stopped", "bench"])
def test_words_in_charts_do_not_lie_on_each_other(opened, name):
    assert opened(name).evaluate(MEETING) == []


@every_page
def test_a_telephone_does_not_scroll_sideways(opened, name):
    page = opened(name, width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')].every(box => box.getBoundingClientRect().right <= 361)"
    )
    page.mouse.wheel(500, 0)
    assert page.evaluate("window.scrollX") == 0


@pytest.mark.parametrize("name", ["ordinary", "run", "stopped", "bench"])
@pytest.mark.parametrize("width", [360, 1280])
def test_words_in_charts_are_large_enough_to_read(opened, name, width):
    for chart in opened(name, width=width).evaluate(CHARTS):
        assert 12 * chart["scale"] >= 9.5


@every_page
@pytest.mark.parametrize("width", [360, 800, 1100, 1280])
def test_large_figures_stay_in_their_column(opened, name, width):
    within = """() => [...document.querySelectorAll('.headlines > div')].map(column => {
      const words = document.createRange(); words.selectNodeContents(column);
      return words.getBoundingClientRect().right - column.getBoundingClientRect().right;
    })"""
    assert all(beyond <= 0.5 for beyond in opened(name, width=width).evaluate(within))


@pytest.mark.parametrize("name", ["run", "bench"])
def test_a_wide_screen_shows_whole_tables(opened, name):
    assert opened(name).evaluate("[...document.querySelectorAll('.scroll')].every(b => b.scrollWidth <= b.clientWidth)")


@every_page
@pytest.mark.parametrize("dark", [False, True])
def test_all_words_stand_out_from_their_ground(opened, name, dark):
    found = opened(name, dark=dark).evaluate(CONTRAST)
    assert found
    faint = {kind: contrast for kind, contrast in found.items() if contrast < 4.5}  # WCAG 2.2, 1.4.3, level AA
    assert faint == {}


def test_light_and_dark_differ(opened):
    grounds = [
        opened("ordinary", dark=dark).evaluate("getComputedStyle(document.body).backgroundColor") for dark in (0, 1)
    ]
    light, dark = (sum(map(int, re.findall(r"\d+", ground)[:3])) for ground in grounds)
    assert light > 600
    assert dark < 150


@every_page
def test_it_prints_with_all_that_was_folded_away(opened, name):
    page = opened(name, width=688)  # an A4 sheet without its margins
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    page.emulate_media(media="print")
    assert page.evaluate(
        "[...document.querySelectorAll('details table')].every(table => table.getBoundingClientRect().height > 20)"
    )
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 5_000


@pytest.mark.parametrize("name", ["ordinary", "hostile", "deep"])
def test_whoever_uses_the_keyboard_or_a_screen_reader_gets_everywhere(opened, name):
    page = opened(name)
    assert page.evaluate("[...document.querySelectorAll('.chart')].every(c => c.getAttribute('aria-label').length > 3)")
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(box => box.tabIndex === 0)")
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    targets = page.evaluate("[...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.hash))")
    assert targets
    assert all(targets)


def test_three_hundred_layers_are_folded_away_and_all_there(opened):
    page = opened("deep")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    assert page.evaluate("document.documentElement.scrollHeight") < 12_000
    assert page.evaluate("Math.max(...[...document.querySelectorAll('tbody')].map(each => each.rows.length))") == 300


def test_hostile_names_stand_there_as_they_are(opened):
    page = opened("hostile")
    words = page.evaluate("document.body.textContent")
    assert "<script>document.title='owned'</script>" in words
    assert "{{ 7 * 7 }}" in words
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
