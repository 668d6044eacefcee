"""Which axes a reduction takes: asked by its rule, by the search for zeros and by the proof."""

from __future__ import annotations

from torchpare.graph.program import Op

__all__ = ["reduced_axes"]


def reduced_axes(op: Op, rank: int, shape: tuple[int, ...]) -> tuple[set[int], bool]:
    """The axes that a reduction takes, and whether it keeps them with size 1."""
    position = 2 if op.name in ("aten.norm", "aten.linalg_vector_norm") else 1
    given = op.args[position] if len(op.args) > position else op.kwargs.get("dim")
    if isinstance(given, int) and not isinstance(given, bool):
        given = [given]
    axes = {axis % rank for axis in given} if isinstance(given, (list, tuple)) and given else set(range(rank))
    return axes, len(shape) == rank
