"""What a model is made of and where it can be spared: per layer, as values, tables, pictures and one page."""

from __future__ import annotations
