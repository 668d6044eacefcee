"""Attention as OpenVINO is fastest with it: its result rounded where it is made, its keys read as they lie.

A model computes attention head by head, brings the heads together (a transposition and a reshape), and only then is
the result rounded, for the linear layer that reads it. Moves of values and their rounding may change places: the
numbers are the same. OpenVINO makes one kernel of attention and a rounding that follows it at once, and moves a quarter
of the bytes afterwards.

The product of queries and keys reads the keys by columns, and OpenVINO turns them over in memory for it, unless the
product itself is told to. ONNX has no such product.
"""

from __future__ import annotations

from typing import Any

from torchpare.runtimes.onnx_graph import OnnxGraph

__all__ = ["with_early_roundings", "with_rows_of_keys"]

_MOVES = frozenset({"Reshape", "Transpose"})


def with_early_roundings(model: Any) -> Any:
    """The ONNX model, with what products return rounded before it is moved.

    Args:
        model: an ``onnx.ModelProto``; edited in place where there is something to do.
    """
    graph = OnnxGraph(model.graph)
    for rounded in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        restored = graph.only_reader(rounded.output[0])
        if restored is None or restored.op_type != "DequantizeLinear" or restored.output[0] in graph.outputs:
            continue
        first = _first_move(graph, rounded.input[0])
        if first is not None and graph.grid(rounded) is not None:
            _move_up(graph, rounded, restored, first)
    return model


def with_rows_of_keys(model: Any) -> Any:
    """OpenVINO's model, with products that take the rows of what was transposed for them, where these lie as rows.

    Args:
        model: an ``openvino.Model``; edited in place where there is something to do.
    """
    from openvino import opset13 as operators

    for product in [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]:
        flags, moved = product.get_attributes(), product.input_value(1).get_node()
        order = _order(moved)
        if flags["transpose_b"] or len(order) < 2 or order[-2] != len(order) - 1:
            continue
        rows = [*order[:-2], order[-1], order[-2]]
        if rows == sorted(rows):  # two axes alone change places, which it sees by itself
            continue
        keys = operators.transpose(moved.input_value(0), rows)
        made = operators.matmul(product.input_value(0), keys, flags["transpose_a"], transpose_b=True)
        made.set_friendly_name(product.get_friendly_name())
        for reader in product.output(0).get_target_inputs():
            reader.replace_source_output(made.output(0))
    return model


def _order(node: Any) -> list[int]:
    """The order in which a transposition puts the axes; empty of any other node."""
    if node.get_type_name() != "Transpose":
        return []
    axes = node.input_value(1).get_node()
    return [int(axis) for axis in axes.get_data()] if axes.get_type_name() == "Constant" else []


def _first_move(graph: OnnxGraph, name: str) -> Any:
    """The first of the moves between a product of two computed values and its rounding; None if that is not so."""
    first = None
    while graph.only_reader(name) is not None and (node := graph.makers.get(name)) is not None:
        if node.op_type == "MatMul":
            computed = not any(factor in graph.constants for factor in node.input)
            return first if computed else None
        if node.op_type not in _MOVES:
            return None
        first, name = node, node.input[0]
    return None


def _move_up(graph: OnnxGraph, rounded: Any, restored: Any, first: Any) -> None:
    """Round and restore in front of the first move; what read the restored value reads what was moved."""
    moved, final, product = rounded.input[0], restored.output[0], first.input[0]
    codes, values = f"{product} codes", f"{product} restored"
    rounded.input[0], restored.input[0] = product, codes
    rounded.output[0], restored.output[0] = codes, values
    for reader in graph.readers[final]:
        for index, name in enumerate(reader.input):
            if name == final:
                reader.input[index] = moved
    first.input[0] = values
    nodes = graph.graph.node
    copies = [type(node).FromString(node.SerializeToString()) for node in (rounded, restored)]
    for node in (rounded, restored):
        nodes.remove(node)
    graph.insert(first, *copies)
