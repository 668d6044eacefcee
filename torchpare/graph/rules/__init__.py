"""One function per family of operators: how labels pass through it.

A rule reads the labels of the operator's inputs, may *unify* labels that must stay together, *freeze* what must stay
whole, and *defines* the labels of the outputs. An operator without a rule freezes everything it touches, and is named
in the report: it is never guessed.
"""

from __future__ import annotations

from torchpare.graph.rules import (
    contractions,
    copies,
    elementwise,
    factories,
    indexing,
    losses,
    movement,
    norms,
    reductions,
    reshapes,
)
from torchpare.graph.rules.apply import apply_rules

__all__ = [
    "apply_rules",
    "contractions",
    "copies",
    "elementwise",
    "factories",
    "indexing",
    "losses",
    "movement",
    "norms",
    "reductions",
    "reshapes",
]
