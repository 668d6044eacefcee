"""Weights that ONNX Runtime would give their values anew in every run: given them once, when it loads the file.

ONNX Runtime keeps a DequantizeLinear of a weight for the integer kernels that may take it in. Where none does (a linear
layer whose inputs are floats and whose weight has eight bits, a transposed convolution, a weight in four bits that
several layers read) it runs each time, and costs more than the product after it. Such weights are floats in memory,
then, as they would be in a float model; the file stays as small as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from torchpare.runtimes.four_channels import write_four_channels
from torchpare.runtimes.integer_biases import write_integer_biases
from torchpare.runtimes.onnx_graph import opset

__all__ = ["unpacked"]

_MOVES = {"Transpose", "Reshape"}
_CUTS = {"Relu", "Clip"}
_FOUR_BITS = {"INT4", "UINT4"}

_PADS_CODES = 13
"""The first version of ONNX whose Pad takes integers and says by a value with what."""

_LARGEST = 2**31 - 2**20
"""Bytes of a model that can be handed over as one message, with room for its graph."""


def unpacked(path: Path) -> bytes | None:
    """A file in which the weights that no kernel takes as integers are floats, and biases of integer kernels integers.

    Pictures have four channels in it where that is faster (see `torchpare.runtimes.four_channels`).

    None if nothing in it is rounded.

    Args:
        path: an ONNX file. One whose tensors lie beside it, or that would come to 2 GiB with floats, is left alone: it
            runs all the same, and slower.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in weights.values()):
        return None
    links = _Links(graph)
    if not any(node.op_type == "DequantizeLinear" for node in graph.node):
        return None
    kinds = onnx.TensorProto.DataType
    left = [
        node
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in weights
        and links.computes_in_float(node, kinds.Name(weights[node.input[0]].data_type))
    ]
    floats = sum(4 * prod(weights[node.input[0]].dims) for node in left)
    if path.stat().st_size + floats > _LARGEST:
        return None
    for node in left:
        part = onnx.helper.make_graph(
            [node],
            "weight",
            [],
            [onnx.helper.make_empty_tensor_value_info(node.output[0])],
            [weights[name] for name in node.input if name],
        )
        alone = onnx.helper.make_model(part, opset_imports=list(model.opset_import), ir_version=model.ir_version)
        value: Any = ReferenceEvaluator(alone).run(None, {})
        graph.initializer.append(onnx.numpy_helper.from_array(value[0], node.output[0]))
        graph.node.remove(node)
    write_integer_biases(graph, links.makers, weights, links.rounded)
    if opset(model) >= _PADS_CODES:
        write_four_channels(graph, links.rounded)
    read = {name for node in graph.node for name in node.input}
    for name, tensor in weights.items():
        if name not in read:
            graph.initializer.remove(tensor)
    return model.SerializeToString()


class _Links:
    """Who makes a value of a graph, and who reads it."""

    def __init__(self, graph: Any) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def computes_in_float(self, weight: Any, kind: str) -> bool:
        """Whether all that reads a weight, which this node gives its values, multiplies floats by it."""
        ends = list(self._ends(weight.output[0]))
        if kind in _FOUR_BITS and len(ends) == 1 and ends[0][0].op_type in ("MatMul", "Gemm"):
            return False  # by the kernel for four bits
        return bool(ends) and all(self._in_float(node, name) for node, name in ends)

    def _ends(self, value: str) -> Iterator[tuple[Any, str]]:
        """The nodes that compute with a value, through what only moves it, with the name by which each has it."""
        for node in self.readers.get(value, []):
            if node.op_type in _MOVES:
                yield from self._ends(node.output[0])
            else:
                yield node, value

    def _in_float(self, node: Any, weight: str) -> bool:
        if node.op_type == "ConvTranspose":
            return True
        others = [name for name in node.input[:2] if name != weight]
        restored = any(self.makers[name].op_type == "DequantizeLinear" for name in others if name in self.makers)
        if node.op_type == "Conv":
            return not restored or not self.rounded(node.output[0])
        return node.op_type in ("MatMul", "Gemm") and not restored

    def rounded(self, value: str) -> bool:
        """Whether a value, or what an activation function makes of it, is rounded by all that reads it."""
        readers = self.readers.get(value, [])
        if len(readers) == 1 and readers[0].op_type in _CUTS:
            return self.rounded(readers[0].output[0])
        return bool(readers) and all(node.op_type == "QuantizeLinear" for node in readers)
