"""Weights in eight bits, written into a program: what was read as floats is read as integers, and given its values."""

from __future__ import annotations

import torch
from torch import fx

from torchpare.runtimes.integers import Stored
from torchpare.runtimes.operators import constant, put, stored_node

__all__ = ["write_weights"]

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
