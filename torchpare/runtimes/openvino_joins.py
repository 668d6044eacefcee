"""Concatenations that OpenVINO gets wrong: beside values that lie on no grid, and before a second rounding.

OpenVINO moves a dequantization after what only moves values. Where that ends in a concatenation of which other inputs
have none (a picture's patches beside a class token, which is how vision transformers begin) what version 2026.4 returns
is wrong. And where a concatenation is rounded to a grid that reaches below zero, and what becomes of that by a norm or
an activation function is rounded to one that does not (DenseNets are made of this), it ends the process while it
compiles. In both places the rounding is written out, as a division, a ``Round`` and a ``Clip`` in float: the same
numbers, which it leaves alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torchpare.runtimes.onnx_graph import OnnxGraph

__all__ = ["with_written_out_roundings"]

_MOVES = frozenset(
    {
        "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather", "Split", "Expand",
        "Tile",
    }
)  # fmt: skip

_CUTS = frozenset({"Relu", "Clip", "Identity", "BatchNormalization"})
_SHIFTS = frozenset({"Add", "Sub", "Mul", "Div"})
"""Of a value and a constant."""


def with_written_out_roundings(model: Any) -> Any:
    """The ONNX model, with roundings written out that OpenVINO gets wrong.

    Args:
        model: an ``onnx.ModelProto``; edited in place where there is something to do.
    """
    graph = _Graph(model.graph)
    written: set[str] = set()
    for join in [node for node in model.graph.node if node.op_type == "Concat"]:
        origins = [graph.origin(name) for name in join.input]
        if all(origins) or not any(origins):
            continue
        for restored in filter(None, origins):
            if restored.output[0] not in written:
                written.add(restored.output[0])
                graph.write_out(restored)
    for restored in [node for node in model.graph.node if node.op_type == "DequantizeLinear"]:
        if restored.output[0] not in written and graph.rounds_a_concatenation(restored):
            readers = [node for node in graph.readers.get(restored.output[0], []) if graph.is_cut_at_zero(node)]
            if readers:
                graph.write_out(restored, readers)
    return model


class _Graph(OnnxGraph):
    """An ONNX graph in which roundings are written out."""

    def origin(self, name: str) -> Any:
        """The dequantization that a value comes from, through nothing but moves; None if from elsewhere."""
        while (node := self.makers.get(name)) is not None:
            if node.op_type == "DequantizeLinear":
                return node
            if node.op_type not in _MOVES:
                return None
            name = node.input[0]
        return None

    def rounds_a_concatenation(self, restored: Any) -> bool:
        """Whether a dequantization gives values back to a concatenation that was rounded, or to what was cut of one."""
        rounded = self.makers.get(restored.input[0])
        node = None if rounded is None else self.makers.get(rounded.input[0])
        while node is not None and self._is_cut(node):
            node = self.makers.get(self._values_of(node))
        return node is not None and node.op_type == "Concat"

    def is_cut_at_zero(self, node: Any) -> bool:
        """Whether a node rounds to a grid without values below zero, or leads there by shifts and cuts alone."""
        if node.op_type == "QuantizeLinear":
            grid = self.grid(node)
            return grid is not None and _lowest(grid[1]) == 0
        return self._is_cut(node) and any(self.is_cut_at_zero(each) for each in self._after(node))

    def write_out(self, restored: Any, readers: Collection[Any] | None = None) -> None:
        """Put float operators in the place of one dequantization, for all that reads it or for some; if it can be."""
        rounded = self.makers.get(restored.input[0])
        grid = None if rounded is None else self.grid(rounded)
        if rounded is not None and rounded.op_type == "QuantizeLinear" and grid is not None:
            _write_out(self.graph, rounded, restored, *grid, readers)

    def _after(self, node: Any) -> Iterator[Any]:
        for name in node.output:
            yield from self.readers.get(name, [])

    def _is_cut(self, node: Any) -> bool:
        """Whether a node multiplies, shifts or cuts off the values of one input by constants."""
        known = sum(name in self.constants for name in node.input)
        return node.op_type in _CUTS or (node.op_type in _SHIFTS and known == 1)

    def _values_of(self, node: Any) -> str:
        return next(name for name in node.input if name not in self.constants)


def _lowest(zero: Any) -> int:
    """The lowest value of a grid, in steps."""
    import numpy as np

    return int(np.iinfo(zero.dtype).min) - int(zero)


def _write_out(
    graph: Any, rounded: Any, restored: Any, scale: float, zero: Any, readers: Collection[Any] | None
) -> None:
    import numpy as np
    from onnx import helper, numpy_helper

    low, high = _lowest(zero), int(np.iinfo(zero.dtype).max) - int(zero)
    numbers = {"scale": scale, "low": low, "high": high}
    value = restored.output[0]
    stem = f"{value} written out"
    for key, number in numbers.items():
        graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), f"{stem} {key}"))
    result = value if readers is None else f"{stem} 4"
    steps = [
        helper.make_node("Div", [rounded.input[0], f"{stem} scale"], [f"{stem} 1"]),
        helper.make_node("Round", [f"{stem} 1"], [f"{stem} 2"]),
        helper.make_node("Clip", [f"{stem} 2", f"{stem} low", f"{stem} high"], [f"{stem} 3"]),
        helper.make_node("Mul", [f"{stem} 3", f"{stem} scale"], [result]),
    ]
    at = list(graph.node).index(restored)
    if readers is None:
        graph.node.remove(restored)
    for number, step in enumerate(steps):
        step.name = f"{stem} node {number}"
        graph.node.insert(at + number, step)
    for reader in readers or ():
        for index, name in enumerate(reader.input):
            if name == value:
                reader.input[index] = result
