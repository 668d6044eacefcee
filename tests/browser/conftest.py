"""Pages as files, and what opens them in a real browser."""

from __future__ import annotations

import pytest

from tests.browser.pages import PAGES


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Each page as a file, by name."""
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(make(), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


@pytest.fixture
def opened(browser, files):
    """Opens a page and remembers what it asked for and complained about; `None` for its name is not a page."""
    contexts = []

    def open_page(name, *, dark=False, width=1280, height=900):
        context = browser.new_context(
            color_scheme="dark" if dark else "light", viewport={"width": width, "height": height}
        )
        contexts.append(context)
        page = context.new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (page.complaints.append("a dialog"), dialog.dismiss()))
        page.goto(files[name].as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        return page

    yield open_page
    for context in contexts:
        context.close()
