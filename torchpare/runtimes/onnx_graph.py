"""An ONNX graph with its edges in both directions, for small edits of files."""

from __future__ import annotations

from typing import Any

__all__ = ["OnnxGraph", "opset"]


def opset(model: Any) -> int:
    """The version of ONNX's own operators in an ``onnx.ModelProto``: what may be written into its graph."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


class OnnxGraph:
    """The nodes of an ``onnx.GraphProto``, by what they make and by what they read, as they were at first."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.makers = {name: node for node in graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def only_reader(self, name: str) -> Any:
        """The one node that reads a value; None where several do, or who runs the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def grid(self, node: Any) -> tuple[float, Any] | None:
        """The scale and the zero point of a node that rounds or restores a whole tensor; None of any other."""
        from onnx import numpy_helper

        parts = [numpy_helper.to_array(self.constants[name]) for name in node.input[1:3] if name in self.constants]
        return (float(parts[0]), parts[1]) if len(parts) == 2 and parts[0].ndim == 0 else None

    def insert(self, place: Any, *nodes: Any) -> None:
        """Put nodes in front of another."""
        at = next(index for index, node in enumerate(self.graph.node) if node is place or node == place)
        for number, node in enumerate(nodes):
            self.graph.node.insert(at + number, node)
