"""One file that says every stage from a trained model to a measured small one, and what runs it."""

from __future__ import annotations
