"""What a recorded program costs: multiply-accumulates, from the shapes of what its products read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from torchpare.graph.program import Op, Ref

__all__ = ["macs_of", "multiplies"]

Shape = Callable[[int], tuple[int, ...]]

_PRODUCTS = {
    "aten.mm": 0,
    "aten.bmm": 0,
    "aten.addmm": 1,
    "aten.baddbmm": 1,
    "aten.mv": 0,
    "aten.dot": 0,
    "aten._grouped_mm": 0,
    "transformers.grouped_mm_fallback": 0,
}


def multiplies(op: Op) -> bool:
    """Whether an operator is a convolution, a linear layer or a product of matrices: what is counted."""
    return op.name in _PRODUCTS or op.name in ("aten.convolution", "aten.linear")


def macs_of(ops: Iterable[Op], shape: Shape) -> int:
    """Multiply-accumulates of operators, given the shape of every value: those recorded, or those after a removal.

    A convolution costs its output elements times the inputs and kernel entries that each of them sums over; a product
    of matrices its output elements times the summed length.
    """
    return sum(_macs(op, shape) for op in ops if multiplies(op))


def _macs(op: Op, shape: Shape) -> int:
    out = prod(shape(op.outputs[0]))
    if op.name == "aten.convolution":
        weight = shape(op.args[1].uid)
        if op.args[6]:  # transposed: each input element goes to O / G outputs through every kernel entry
            return prod(shape(op.args[0].uid)) * prod(weight[1:])
        return out * prod(weight[1:])
    if op.name == "aten.linear":
        return out * shape(op.args[1].uid)[-1]
    left = op.args[_PRODUCTS[op.name]]
    assert isinstance(left, Ref)
    return out * shape(left.uid)[-1]
