"""Roundings that OpenVINO must not bring together with what they round.

Tokens that are joined and then rounded for a product: it rounds what is joined in place of the joint values, as if they
were channels of a convolution, gives each token a zero point of its own, and cannot compile the product then. Largest
and smallest values along an axis, alone or joined with others: rounded at once they come out wrong (as of
2026.4). An axis more, of one place, around the rounding keeps it where it is, and costs nothing.
"""

from __future__ import annotations

from typing import Any

from torchpare.runtimes.onnx_graph import OnnxGraph, opset

__all__ = ["with_roundings_apart"]

_ON_THE_WAY = frozenset(
    {
        "DequantizeLinear",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Slice",
        "Gather",
        "Split",
    }
)
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_EXTREMES = frozenset({"ReduceMax", "ReduceMin"})
_WEIGHTED = _PRODUCTS | {"Conv", "ConvTranspose"}
_AXIS = "the first axis"
_AXES_ARE_INPUTS = 13
"""The first version of ONNX whose Unsqueeze reads the axes; in older files all stays where it is."""


def with_roundings_apart(model: Any) -> Any:
    """The ONNX model, with an axis more where a concatenation is rounded for a product, or an extreme value is.

    Args:
        model: an ``onnx.ModelProto``; edited in place where there is something to do.
    """
    graph = OnnxGraph(model.graph)
    roundings = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for rounded in roundings if opset(model) >= _AXES_ARE_INPUTS else []:
        if graph.grid(rounded) is None:  # a grid for each place of an axis counts the axes
            continue
        join = graph.makers.get(rounded.input[0])
        joined = join is not None and join.op_type == "Concat"
        if (joined and _is_multiplied(graph, rounded)) or _is_extreme(graph, rounded.input[0]):
            _put_apart(graph, rounded)
    return model


def _is_multiplied(graph: OnnxGraph, node: Any) -> bool:
    """Whether a product reads what a node makes, through moves alone."""
    readers = [reader for name in node.output for reader in graph.readers.get(name, [])]
    return any(
        reader.op_type in _PRODUCTS or (reader.op_type in _ON_THE_WAY and _is_multiplied(graph, reader))
        for reader in readers
    )


def _is_extreme(graph: OnnxGraph, name: str) -> bool:
    """Whether a value is the largest or smallest of others, a function of that alone, or joined with others."""
    while (node := graph.makers.get(name)) is not None and node.op_type not in _WEIGHTED:
        if node.op_type in _EXTREMES:
            return True
        if node.op_type == "Concat":
            return any(_is_extreme(graph, each) for each in node.input)
        computed = [each for each in node.input if each and each not in graph.constants]
        if len(computed) != 1:
            return False
        name = computed[0]
    return False


def _put_apart(graph: OnnxGraph, rounded: Any) -> None:
    """Give a value an axis more before it is rounded, and take that away when it has its values back."""
    import numpy as np
    from onnx import helper, numpy_helper

    if _AXIS not in graph.constants:
        graph.constants[_AXIS] = numpy_helper.from_array(np.array([0], np.int64), _AXIS)
        graph.graph.initializer.append(graph.constants[_AXIS])
    given, codes = rounded.input[0], rounded.output[0]
    readers = graph.readers.get(codes, [])
    restored = next((node for node in readers if node.op_type == "DequantizeLinear"), None)
    more, apart = f"{codes} given", f"{codes} apart"
    graph.insert(rounded, helper.make_node("Unsqueeze", [given, _AXIS], [more]))
    rounded.input[0], rounded.output[0] = more, apart
    nodes = graph.graph.node
    if codes in graph.outputs or any(node is not restored for node in readers):
        nodes.insert(list(nodes).index(rounded) + 1, helper.make_node("Squeeze", [apart, _AXIS], [codes]))
    if restored is not None:
        made = restored.output[0]
        restored.input[0], restored.output[0] = apart, f"{made} apart"
        nodes.insert(list(nodes).index(restored) + 1, helper.make_node("Squeeze", [f"{made} apart", _AXIS], [made]))
