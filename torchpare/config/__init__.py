"""What is asked: a ``config_list`` is checked and meets a model, before anything is touched."""

from __future__ import annotations

from torchpare.config.entries import Entry, SearchEntry, read_entries
from torchpare.config.layers import CONVOLUTIONS, FILTERED, WEIGHTED, output_layout, plain_class, type_name
from torchpare.config.quantization import QuantEntry, QuantSpec
from torchpare.config.schedules import GradualEntry, RoundsEntry
from torchpare.config.selectors import Selector
from torchpare.config.targets import Target, select

__all__ = [
    "CONVOLUTIONS",
    "FILTERED",
    "WEIGHTED",
    "Entry",
    "GradualEntry",
    "QuantEntry",
    "QuantSpec",
    "RoundsEntry",
    "SearchEntry",
    "Selector",
    "Target",
    "output_layout",
    "plain_class",
    "read_entries",
    "select",
    "type_name",
]
