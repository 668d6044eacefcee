"""Weights in eight bits, written into a program: what was read as floats is read as integers, and given its values."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection

import torch
from torch import fx

from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.integers import Stored
from torchpare.runtimes.operators import constant, is_dequantize, is_quantize, library, put, stored_node
from torchpare.runtimes.placing import chain_end

__all__ = [
    "float_weights",
    "give_each_layer_its_own",
    "split_biases",
    "weight_nodes",
    "with_float_weights",
    "write_weights",
]

_aten = torch.ops.aten


def write_weights(module: fx.GraphModule, stored: dict[str, Stored]) -> None:
    """Replace every reading of a stored weight; rows of a table are looked up as integers and multiplied then.

    Args:
        module: edited in place.
        stored: by the names under which the graph reads them.
    """
    for node in [node for node in module.graph.nodes if node.op == "get_attr"]:
        held = stored.get(str(node.target))
        if held is None or constant(module, node) is None:
            continue
        for reader in list(node.users):
            if reader.target is _aten.embedding.default and held.axis == 0 and not bool(held.zero_point.any()):
                _write_lookup(module, reader, held, str(node.target))
        if node.users:
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(stored_node(module, held, str(node.target)))
        module.graph.erase_node(node)


def split_biases(module: fx.GraphModule, kernels: Collection[fx.Node]) -> None:
    """Add the bias of linear layers that return floats by itself: integer products are floats by then, and it is exact.

    Args:
        module: edited in place.
        kernels: the nodes of the layers in eight bits.
    """
    for node in list(module.graph.nodes):
        bias = node.args[2] if len(node.args) > 2 else None
        if node.target is not _aten.linear.default or node not in kernels or not isinstance(bias, fx.Node):
            continue
        readers = list(chain_end(node).users)
        if len(readers) == 1 and is_quantize(readers[0]):
            continue  # an integer kernel takes it in
        with module.graph.inserting_after(node):
            total = module.graph.call_function(_aten.add.Tensor, (node, bias))
        total.meta = dict(node.meta)
        node.replace_all_uses_with(total, delete_user_cb=lambda user, own=total: user is not own)
        node.args = node.args[:2]


def with_float_weights(module: fx.GraphModule, has_kernel: Callable[[fx.Node], bool]) -> fx.GraphModule:
    """A copy of a program with integers for weights only where a runtime computes with them; see `float_weights`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, about its own
        made = copy.deepcopy(module)
    float_weights(made, has_kernel)
    return fx.GraphModule(made, made.graph)


def weight_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes that give a weight's integers their values."""
    return [
        node
        for node in module.graph.nodes
        if (is_dequantize(node) or node.target is library().dequantize_per_channel.default)
        and constant(module, node.args[0]) is not None
    ]


def float_weights(module: fx.GraphModule, has_kernel: Callable[[fx.Node], bool]) -> None:
    """Write weights in as floats, of the same values, unless all that reads them has a kernel that takes integers.

    Args:
        module: edited in place.
        has_kernel: whether a runtime computes a node from integers.
    """
    for node in weight_nodes(module):
        if all(has_kernel(reader) for reader in node.users):
            continue
        arguments = [constant(module, each) if isinstance(each, fx.Node) else each for each in node.args]
        with torch.no_grad():
            value = node.target(*arguments)  # type: ignore[operator] - an operator
        with module.graph.inserting_before(node):
            new = module.graph.get_attr(put(module, f"{node.all_input_nodes[0].target}_float", value))
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)


def give_each_layer_its_own(module: fx.GraphModule) -> None:
    """A weight or bias that two layers read as two.

    ExecuTorch rounds a bias to the steps of its layer's input and weight, once for each tensor: the second layer to
    read it would get that of the first (as of 1.5.1). Inductor has no integer kernel for a convolution whose weight
    another one reads.

    Args:
        module: edited in place.
    """
    taken: set[fx.Node] = set()
    for layer in [node for node in module.graph.nodes if node.target in WEIGHTED]:
        for value in layer.args[1:3]:
            if not isinstance(value, fx.Node):
                continue
            if value in taken:
                with module.graph.inserting_before(layer):
                    layer.replace_input_with(value, _copied(module, value))
            taken.add(value)


def _copied(module: fx.GraphModule, value: fx.Node) -> fx.Node:
    """A constant, or what gives one its values, once more."""
    held = constant(module, value)
    if held is not None:
        return module.graph.get_attr(put(module, str(value.target), held.clone()))
    copies = {each: _copied(module, each) for each in value.all_input_nodes}
    return module.graph.node_copy(value, lambda each: copies[each])


def _write_lookup(module: fx.GraphModule, reader: fx.Node, held: Stored, name: str) -> None:
    """A table's rows as integers times their scales: a whole table of floats is made nowhere."""
    graph, index = module.graph, reader.args[1]
    with graph.inserting_before(reader):
        codes = graph.get_attr(put(module, f"{name}_codes", held.codes))
        rows = graph.call_function(_aten.embedding.default, (codes, index))
        values = graph.call_function(_aten._to_copy.default, (rows,), {"dtype": torch.float32})  # noqa: SLF001 - its name
        if held.scale.dim() == 0:
            scaled = graph.call_function(_aten.mul.Tensor, (values, float(held.scale)))
        else:
            scales = graph.get_attr(put(module, f"{name}_scale", held.scale.reshape(-1, 1)))
            looked_up = graph.call_function(_aten.embedding.default, (scales, index))
            scaled = graph.call_function(_aten.mul.Tensor, (values, looked_up))
    reader.replace_all_uses_with(scaled)
    graph.erase_node(reader)
