"""Tests of what stands in for other toolkits: differences are told once in a process, not in the middle of tests."""

from __future__ import annotations

import pytest

import torchpare.compat.nni  # noqa: F401 - from here on `import nni` leads to torchpare
from torchpare.compat.nni import changes


@pytest.fixture(autouse=True)
def _differences_were_told(monkeypatch):
    monkeypatch.setattr(changes, "_told", set(changes.CHANGES))


@pytest.fixture
def _differences_are_told(monkeypatch, _differences_were_told):
    monkeypatch.setattr(changes, "_told", set())
