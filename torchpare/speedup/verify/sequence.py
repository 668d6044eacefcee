"""Sequences of operators that can be laid beside each other.

Two runs of one model need not dispatch exactly the same operators: a copy is made where a tensor happens to lie in
memory in another order, a view has several names. What is left without these is the canonical sequence.
"""

from __future__ import annotations

__all__ = ["ALLOCATIONS", "canonical_name"]

ALLOCATIONS = frozenset(
    f"aten.{name}" for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
)
"""Operators whose result holds whatever lay in memory."""

_SILENT = ALLOCATIONS | frozenset(
    f"aten.{name}" for name in ("clone", "contiguous", "detach", "alias", "lift_fresh", "_to_copy")
)
_SAME = {"aten._unsafe_view": "aten.view", "aten.reshape": "aten.view", "aten._reshape_alias": "aten.view"}
_ADDED_BIAS = {"aten.mm": "aten.addmm"}  # a linear layer that was given a bias, to take over a constant


def canonical_name(name: str) -> str | None:
    """The name under which an operator is compared; None for one that only copies or allocates."""
    if name in _SILENT:
        return None
    return _SAME.get(name) or _ADDED_BIAS.get(name) or name
