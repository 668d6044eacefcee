"""The site builds without a warning, asks for nothing from elsewhere, and shows in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.pages import ROOT

pytestmark = pytest.mark.slow

FETCHED = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src", "object": "data"}
LOOKED_AT = (
    "index.html",
    "tasks/resnet-twice-as-fast.html",
    "concepts/shrinking.html",
    "reference/pruning.html",
    "zoo.html",
)
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Assets(HTMLParser):
    """What a page makes the browser fetch without a click."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("canonical", "prev", "next"):
            return
        if tag in FETCHED and given.get(FETCHED[tag]):
            self.found.append(str(given[FETCHED[tag]]))


def test_no_page_asks_for_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        parser = Assets()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found
        away = [asset for asset in parser.found if re.match(r"(https?:)?//", asset)]
        assert not away, f"{page.relative_to(site)} asks for {away}"
        gone = [asset for asset in parser.found if not asset.startswith("data:") and not there(site, page, asset)]
        assert not gone, f"{page.relative_to(site)} asks for {gone}, and there is no such file"
    for style in site.rglob("*.css"):
        assert not re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']*""", style.read_text(encoding="utf-8"))


def there(site: Path, page: Path, asset: str) -> bool:
    path = asset.partition("?")[0].partition("#")[0]
    return (site / path.lstrip("/") if path.startswith("/") else page.parent / path).exists()


def test_every_page_of_the_repository_is_on_the_site(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page


def test_links_out_of_the_docs_lead_to_pages_with_the_files(site):
    tutorial = (site / "tutorial.html").read_text(encoding="utf-8")
    assert 'href="project/examples/digits_resnet20.py.html"' in tutorial
    shown = (site / "project/examples/digits_resnet20.py.html").read_text(encoding="utf-8")
    assert "Halve the filters of a ResNet-20" in re.sub("<[^>]*>", "", shown)
    contributing = (site / "project/CONTRIBUTING.html").read_text(encoding="utf-8")
    assert 'href="../zoo.html"' in contributing


ROOMS = sorted(
    page.stem
    for page in (ROOT / "docs" / "reference").glob("*.md")
    if page.stem not in ("index", "command-line", "torchpare", "files")  # files hands nothing on: its modules are shown
)


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_has_every_public_name_of_a_room(site, room):
    shown = (site / "reference" / f"{room}.html").read_text(encoding="utf-8")
    module = import_module(f"torchpare.{room}")
    for name in module.__all__:
        handed_on = f"torchpare.{room}.{name}"
        at_home = f"{getattr(getattr(module, name), '__module__', room)}.{name}"  # where a file has the name as well
        assert f'id="{handed_on}"' in shown or f'id="{at_home}"' in shown, (
            f"the page of {room} lacks {name}: ::: {at_home}"
        )


def test_every_room_that_hands_names_on_is_in_the_reference():
    floors = {"attach", "numerics", "layers", "graph"}  # for contributors: CONTRIBUTING.md tells of them
    for folder in (ROOT / "torchpare").iterdir():
        if (folder / "__init__.py").is_file() and folder.name not in floors:
            module = import_module(f"torchpare.{folder.name}")
            assert not getattr(module, "__all__", ()) or folder.name in ROOMS, f"torchpare.{folder.name} has no page"


def test_the_commands_page_has_every_command_and_option(site):
    import typer

    from torchpare.cli import app

    shown = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f'id="torchpare-{name}"' in shown
        for option in (spelled for parameter in command.params for spelled in parameter.opts if spelled[0] == "-"):
            assert f"<code>{option}</code>" in shown, f"{name} {option}"


# ------------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def opened(browser, address: str, page: str, scheme: str, size: dict[str, int]):
    """The page, and what went wrong or left the site while it loaded."""
    shown = browser.new_page(color_scheme=scheme, viewport=size)
    trouble: list[str] = []
    shown.on("console", lambda said: trouble.append(said.text) if said.type in ("error", "warning") else None)
    shown.on("pageerror", lambda error: trouble.append(str(error)))
    shown.on(
        "request", lambda asked: trouble.append(asked.url) if not asked.url.startswith((address, "data:")) else None
    )
    shown.on("response", lambda got: trouble.append(f"{got.status} {got.url}") if got.status >= 400 else None)
    shown.goto(address + page, wait_until="networkidle")
    return shown, trouble


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_a_page_shows_without_trouble_and_fits(browser, address, page, size):
    grounds = {}
    for scheme in ("light", "dark"):
        shown, trouble = opened(browser, address, page, scheme, size)
        assert trouble == []
        assert shown.locator("article h1").is_visible()
        width = shown.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], f"{page} is {width} wide on a screen of {size['width']}"
        grounds[scheme] = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        shown.close()
    assert grounds["light"] != grounds["dark"]


def test_drawings_take_on_the_colours_of_the_page_and_not_of_the_system(browser, address):
    shown, trouble = opened(browser, address, "concepts/masks.html", "light", DESK)
    ink = "getComputedStyle(document.querySelector('svg.figure text')).fill"
    assert shown.locator("figure.drawing svg").count() == 1
    light = shown.evaluate(ink)
    shown.evaluate("document.body.setAttribute('data-md-color-scheme', 'slate')")
    assert shown.evaluate(ink) != light
    assert trouble == []
    shown.close()


def test_search_finds_what_is_told(browser, address):
    shown, trouble = opened(browser, address, "index.html", "light", DESK)
    shown.locator(".md-search__input").click()
    shown.locator(".md-search__input").type("grouped queries", delay=10)
    shown.locator(".md-search-result__item a").first.wait_for(timeout=10_000)
    found = shown.locator(".md-search-result__item a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert any("llama-heads.html" in link for link in found), found
    assert trouble == []
    shown.close()
