"""Other toolkits' import paths, for scripts that were written for them."""

from __future__ import annotations
