"""Few bits in an ONNX file: weights of linear layers as INT4 or INT8 with a scale for each block of inputs (opset 21).

What runtimes make of it depends on how it lies there. ONNX Runtime has a four-bit kernel (``MatMulNBits``) for weights
that lie with their inputs first. It would take eight bits by that too, and is many times slower then than in float:
those lie with their outputs first, where it gives them their values and multiplies floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from torchpare.errors import ExportError
from torchpare.runtimes.grouped import Grouped

__all__ = ["BLOCK_OPSET", "write_blocks"]

BLOCK_OPSET = 21
"""From here on DequantizeLinear knows blocks and four bits."""


def write_blocks(model: Any, weights: Mapping[str, Grouped]) -> None:
    """Put weights of linear layers into an exporter's graph as few-bit integers with the scales of their groups.

    Args:
        model: an ``onnx_ir.Model`` of opset 21 or more, in which DequantizeLinear reads each weight's codes ``(O, I)``;
            edited in place.
        weights: by the names of the codes.

    Raises:
        ExportError: the graph reads one of them otherwise.
    """
    graph, missing = model.graph, set(weights)
    for node in list(graph.all_nodes()):
        name = str(node.inputs[0].name) if node.op_type == "DequantizeLinear" else ""
        if name in weights:
            missing.discard(name)
            _write(graph, node, name, weights[name])
    if missing:
        raise ExportError(f"the exporter's graph reads {min(missing)!r} otherwise than by DequantizeLinear")


def _write(graph: Any, node: Any, name: str, held: Grouped) -> None:
    """One weight: its initializers, and what reads them."""
    ir = import_module("onnx_ir")
    inputs_first = held.bits == 4
    codes, scale, zero_point = held.codes.numpy(), held.scale.numpy(), held.zero_point.numpy()
    kind = ir.DataType.INT8
    if inputs_first:
        unsigned = bool(zero_point.any())
        kind = ir.DataType.UINT4 if unsigned else ir.DataType.INT4
        codes, scale, zero_point = codes.T + 8 * unsigned, scale.T, zero_point.T + 8 * unsigned
    if inputs_first and scale.shape[0] == 1:  # a scale for each column needs no blocks, and so no number of inputs
        scale, zero_point, attributes = scale[0], zero_point[0], {"axis": 1}
    else:
        attributes = {"axis": 0 if inputs_first else 1, "block_size": held.size}
    for value, array in ((f"{name}_int{held.bits}", codes.astype(kind.numpy())), (f"{name}_scales", scale),
                         (f"{name}_zero_points", zero_point.astype(kind.numpy()))):  # fmt: skip
        tensor = ir.Tensor(np.ascontiguousarray(array), dtype=ir.DataType.FLOAT if array.dtype == np.float32 else kind)
        graph.register_initializer(ir.Value(name=value, const_value=tensor, shape=tensor.shape,
                                            type=ir.TensorType(tensor.dtype)))  # fmt: skip
    read = [graph.initializers[f"{name}_{part}"] for part in (f"int{held.bits}", "scales", "zero_points")]
    for at, (reader, index) in enumerate(list(node.outputs[0].uses())):
        # Each reader gives the weight its values anew: kernels take in what they alone read.
        new = ir.node("DequantizeLinear", read, attributes)
        value = new.outputs[0]
        value.name, value.shape = f"{name}_values{f'_{at + 1}' if at else ''}", ir.Shape(codes.shape)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(node, new)
        if inputs_first:
            _turn(graph, reader, index, value)
        else:
            reader.replace_input_with(index, value)
    read_before = [given.name for given in node.inputs if given is not None]
    graph.remove(node, safe=True)
    for old in read_before:
        if old in graph.initializers and not graph.initializers[old].uses():
            del graph.initializers[old]


def _turn(graph: Any, reader: Any, at: int, value: Any) -> None:
    """Read a weight with its inputs first where it was read with its outputs first."""
    if reader.op_type == "Transpose":
        products = [use.node for use in reader.outputs[0].uses()]
        reader.outputs[0].replace_all_uses_with(value)
        graph.remove(reader, safe=True)
    elif _is_product(reader, at):
        products = [reader]
        reader.attributes.clear()
        reader.replace_input_with(at, value)
        # Before it chooses kernels, ONNX Runtime makes one of Gemm and an activation, and one of MatMul and Add.
        if _readers(reader) not in ({"Add"}, {"Relu"}, {"Clip"}):
            reader.op_type = "MatMul"
            reader.resize_inputs(2)
    else:
        raise ExportError(f"the exporter's graph reads a linear layer's weight in {reader.op_type}: {reader.name!r}")
    for product in products:
        if _readers(product) & {"Relu", "Clip"}:
            _add_zeros(graph, product, int(value.shape[1]))


def _readers(node: Any) -> set[str]:
    """The operators that read what a node makes."""
    return {use.node.op_type for use in node.outputs[0].uses()}


def _add_zeros(graph: Any, product: Any, outputs: int) -> None:
    """A bias of zeros: right before these two activations ONNX Runtime finds no four-bit kernel for a product."""
    ir = import_module("onnx_ir")
    old = product.outputs[0]
    tensor = ir.Tensor(np.zeros(outputs, dtype=np.float32))
    zeros = ir.Value(name=f"{old.name}_zeros", const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
    graph.register_initializer(zeros)
    added = ir.node("Add", [old, zeros])
    added.outputs[0].name = f"{old.name}_with_zeros"
    added.outputs[0].shape, added.outputs[0].type = old.shape, old.type
    old.replace_all_uses_with(added.outputs[0])
    added.replace_input_with(0, old)
    graph.insert_after(product, added)


def _is_product(node: Any, at: int) -> bool:
    """Whether a node multiplies rows by a weight with its outputs first, and does no more."""
    if node.op_type != "Gemm" or at != 1 or any(given is not None for given in node.inputs[2:]):
        return False
    usual: dict[str, float] = {"alpha": 1, "transA": 0, "transB": 0}
    given = {name: node.attributes[name].value for name in usual if name in node.attributes}
    return {**usual, **given} == {**usual, "transB": 1}
