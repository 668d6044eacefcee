"""Linear layers of which the weights alone have few bits: which those of a program are, and what a file holds of them.

Their inputs are floats, so the arithmetic is too, and what few bits save is memory and the time that reading it takes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch
from torch import fx

from torchpare.runtimes.explicit import FloatPlace
from torchpare.runtimes.grouped import Grouped, grouped_from
from torchpare.runtimes.integers import Stored
from torchpare.runtimes.operators import constant, is_dequantize, library, put, step_behind
from torchpare.runtimes.weights import split_biases, weight_nodes

__all__ = ["grouped_weights", "with_codes"]

_LINEAR = torch.ops.aten.linear.default


def grouped_weights(
    module: fx.GraphModule, found: Mapping[str, Grouped]
) -> tuple[dict[str, Grouped], list[FloatPlace]]:
    """Which weights in groups a file can hold as integers, and what becomes of each.

    Args:
        module: only read; its weights are floats yet, and its norms are folded.
        found: the weights by every name that they have.
    """
    kept: dict[str, Grouped] = {}
    floats: list[FloatPlace] = []
    read = {str(node.target): node for node in module.graph.nodes if node.op == "get_attr" and node.users}
    told: set[int] = set()
    for name, held in found.items():
        node = read.get(name)
        if node is not None and _linear_layers_read(node):
            kept[name] = held
            floats.append(FloatPlace(name, f"{held} in ONNX files, and a float in other runtimes"))
            told.add(id(held))
    for name, held in found.items():
        if id(held) not in told:
            why = "a norm is folded into it" if name not in read else "not only linear layers read it"
            floats.append(FloatPlace(name, f"a scale for each group of weights, and {why}: a float"))
    return kept, floats


def with_codes(module: fx.GraphModule, grouped: Mapping[str, Grouped]) -> tuple[fx.GraphModule, dict[str, Grouped]]:
    """A copy of a program in which every weight of such a layer is read as integers, and these by their new names.

    The copy is for an exporter: weights in groups pass through a dequantization without their scales, since torch's
    exporter has no operator with a scale for each group. Whoever edits what it wrote puts them in.

    Args:
        module: stays as it is.
        grouped: the weights in groups, by the names under which the graph reads them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, about its own
        made = fx.GraphModule(module, copy.deepcopy(module.graph))
    codes: dict[str, Grouped] = {}
    for node in weight_nodes(made):
        if _linear_layers_read(node):
            held = grouped_from(_stored(made, node))
            if isinstance(held, Grouped):
                codes[str(node.all_input_nodes[0].target)] = held
    for node in [node for node in made.graph.nodes if node.op == "get_attr"]:
        held = grouped.get(str(node.target))
        if held is not None:
            with made.graph.inserting_after(node):
                name = put(made, f"{node.target}_codes", held.codes)
                read = made.graph.get_attr(name)
            with made.graph.inserting_after(read):
                value = made.graph.call_function(
                    library().dequantize_per_tensor.default, (read, 1.0, 0, -128, 127, torch.int8)
                )
            node.replace_all_uses_with(value)
            made.graph.erase_node(node)
            codes[name] = held
            split_biases(made, list(value.users))
    return fx.GraphModule(made, made.graph).eval(), codes


def _linear_layers_read(weight: fx.Node) -> bool:
    """Whether all that reads a weight are linear layers whose inputs are floats."""
    return bool(weight.users) and all(
        reader.target is _LINEAR
        and reader.args[1] is weight
        and weight not in (reader.args[0], *reader.args[2:])
        and not is_dequantize(reader.args[0])
        for reader in weight.users
    )


def _stored(module: fx.GraphModule, node: fx.Node) -> Stored:
    """What `write_weights` wrote into the program."""
    codes = constant(module, node.args[0])
    assert codes is not None
    if is_dequantize(node):
        step = step_behind(node)
        return Stored(codes, torch.tensor(step.scale), torch.tensor(step.zero_point), 0)
    scale, zero_point = (constant(module, argument) for argument in node.args[1:3])
    assert scale is not None
    assert zero_point is not None
    return Stored(codes, scale, zero_point, node.args[3])  # type: ignore[arg-type]
