"""Tokens that are joined and then rounded for a product, which OpenVINO cannot compile by itself.

It rounds what is joined in place of the joint values, as if they were channels of a convolution: each token gets a zero
point of its own then, along an axis along which no product takes one. An axis more, of one place, around the rounding
keeps it where it is, and costs nothing.
"""

from __future__ import annotations

from typing import Any

from torchpare.runtimes.onnx_graph import OnnxGraph

__all__ = ["with_roundings_apart"]

_MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather", "Split"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_AXIS = "the first axis"


def with_roundings_apart(model: Any) -> Any:
    """The ONNX model, with an axis more where a concatenation is rounded for a product.

    Args:
        model: an ``onnx.ModelProto``; edited in place where there is something to do.
    """
    graph = OnnxGraph(model.graph)
    for restored in [node for node in model.graph.node if node.op_type == "DequantizeLinear"]:
        rounded = graph.makers.get(restored.input[0])
        if rounded is None or rounded.op_type != "QuantizeLinear" or not _is_multiplied(graph, restored):
            continue
        join = graph.makers.get(rounded.input[0])
        if join is not None and join.op_type == "Concat":
            _put_apart(graph, rounded, restored)
    return model


def _is_multiplied(graph: OnnxGraph, node: Any) -> bool:
    """Whether a product reads what a node makes, or what becomes of it by moves alone."""
    readers = [reader for name in node.output for reader in graph.readers.get(name, [])]
    return any(
        reader.op_type in _PRODUCTS or (reader.op_type in _MOVES and _is_multiplied(graph, reader))
        for reader in readers
    )


def _put_apart(graph: OnnxGraph, rounded: Any, restored: Any) -> None:
    """Give a value an axis more before it is rounded, and take that away again when it has its values back."""
    import numpy as np
    from onnx import helper, numpy_helper

    if _AXIS not in graph.constants:
        graph.constants[_AXIS] = numpy_helper.from_array(np.array([0], np.int64), _AXIS)
        graph.graph.initializer.append(graph.constants[_AXIS])
    given, codes, made = rounded.input[0], rounded.output[0], restored.output[0]
    more, more_codes, inside = f"{codes} given", f"{codes} apart", f"{made} apart"
    graph.insert(rounded, helper.make_node("Unsqueeze", [given, _AXIS], [more]))
    rounded.input[0], rounded.output[0] = more, more_codes
    restored.input[0], restored.output[0] = more_codes, inside
    after = [helper.make_node("Squeeze", [inside, _AXIS], [made])]
    if codes in graph.outputs or len(graph.readers[codes]) > 1:
        after.append(helper.make_node("Squeeze", [more_codes, _AXIS], [codes]))
    at = list(graph.graph.node).index(restored)
    for node in after:
        graph.graph.node.insert(at + 1, node)
