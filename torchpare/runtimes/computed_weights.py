"""Weights that a model works out of others each time (weight norm, standardized kernels), worked out once.

They depend on no input, so a program may hold what comes out; and what is a constant can be stored in eight bits. So it
is with layers that read no input at all, such as those that make embeddings of positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.operators import constant, owner, put

__all__ = ["write_computed_weights"]


def write_computed_weights(module: fx.GraphModule) -> None:
    """Replace weights and biases that are made of constants alone by their values, and layers that read nothing else.

    Args:
        module: edited in place.
    """
    values: dict[fx.Node, Tensor | None] = {}
    written: dict[fx.Node, str] = {}
    _write_layers(module, values, written)
    for layer in [node for node in module.graph.nodes if node.target in WEIGHTED]:
        for source, kind in zip(layer.args[1:3], ("weight", "bias"), strict=False):
            if not isinstance(source, fx.Node) or source.op != "call_function":
                continue
            value = _value(module, source, values)
            if value is None:
                continue
            if source not in written:
                written[source] = put(module, f"{owner(layer)}.{kind}".lstrip("."), value.contiguous())
            with module.graph.inserting_before(layer):
                layer.replace_input_with(source, module.graph.get_attr(written[source]))
    if written:
        module.graph.eliminate_dead_code()


def _write_layers(module: fx.GraphModule, values: dict[fx.Node, Any], written: dict[fx.Node, str]) -> None:
    """Replace what layers make of constants alone, and what is made of that, where something else reads it."""
    made: list[fx.Node] = []
    for node in module.graph.nodes:
        starts = node.target in WEIGHTED or any(each in made for each in node.all_input_nodes)
        if starts and isinstance(_value(module, node, values), Tensor):
            made.append(node)
    for node in made:
        readers = [reader for reader in node.users if reader not in made]
        if readers:
            written[node] = put(module, f"{owner(node)}.made".lstrip("."), values[node])
            with module.graph.inserting_before(node):
                value = module.graph.get_attr(written[node])
            for reader in readers:
                reader.replace_input_with(node, value)


def _value(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """What a node makes of constants; None if it reads anything else, or draws random numbers."""
    if node not in known:
        known[node] = constant(module, node)
        if node.op == "call_function" and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            read = {each: _value(module, each, known) for each in node.all_input_nodes}
            if all(value is not None for value in read.values()):
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: read[each])
                with torch.no_grad():
                    known[node] = node.target(*args, **kwargs)  # type: ignore[operator] - an operator
    return known[node]
