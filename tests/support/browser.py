"""The system's own Chromium, for tests that look at pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

__all__ = ["browser"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, one for all tests of a process: a second one cannot be driven beside it."""
    driver_of, path = _playwright_and_chromium()
    with driver_of() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


def _playwright_and_chromium() -> tuple[Any, str]:
    """What drives a browser, and the browser's path: ``CHROMIUM``, or the one on the path.

    Where there is none, tests are skipped. In CI that is a failure, so that they are not skipped for ever, unless
    ``NO_BROWSER`` says that none could be installed.
    """
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if path is not None and sync_playwright is not None:
        return sync_playwright, path
    why = "there is no Chromium: install it, or say where it is in CHROMIUM" if path is None else \
        "playwright is not installed: pip install playwright"  # fmt: skip
    if os.environ.get("CI") == "true" and not os.environ.get("NO_BROWSER"):
        pytest.fail(why)
    pytest.skip(why)
