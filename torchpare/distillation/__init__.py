"""Learning from a teacher: losses that compare a small model with the dense one it came from."""

from __future__ import annotations
