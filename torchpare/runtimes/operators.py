"""The operators in which a program says quantize and dequantize, and small edits of its graph.

They are those of torch's ``quantized_decomposed`` library, because its ONNX exporter, inductor and ExecuTorch know them
by that name. Torch registers them where its older quantization lived; of that nothing else is used.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn

from torchpare.runtimes.integers import Step, Stored

__all__ = [
    "constant",
    "is_dequantize",
    "is_quantize",
    "library",
    "owner",
    "put",
    "rounded",
    "rounding_nodes",
    "step_behind",
    "stored_node",
]


def library() -> Any:
    """``torch.ops.quantized_decomposed``, registered."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


def is_quantize(node: Any) -> TypeGuard[fx.Node]:
    """Whether a node rounds an activation to integers."""
    return isinstance(node, fx.Node) and node.target is library().quantize_per_tensor.default


def is_dequantize(node: Any) -> TypeGuard[fx.Node]:
    """Whether a node gives the integers of an activation their values."""
    return isinstance(node, fx.Node) and node.target is library().dequantize_per_tensor.default


def rounded(x: Tensor, step: Step) -> Tensor:
    """A tensor on a grid, in the two operators; clipped first where saturation would not do."""
    if not step.whole:
        x = x.clamp(*step.bounds)
    ops = library()
    codes = ops.quantize_per_tensor.default(x, *_arguments(step))
    return ops.dequantize_per_tensor.default(codes, *_arguments(step))


def rounding_nodes(graph: fx.Graph, value: fx.Node, step: Step, name: str) -> fx.Node:
    """The same as nodes after ``value``, named for the site; returns the last."""
    ops = library()
    if not step.whole:
        value = graph.call_function(torch.ops.aten.clamp.default, (value, *step.bounds))
    codes = graph.create_node(
        "call_function", ops.quantize_per_tensor.default, (value, *_arguments(step)), name=f"{name}_codes"
    )
    return graph.create_node(
        "call_function", ops.dequantize_per_tensor.default, (codes, *_arguments(step)), name=f"{name}_values"
    )


def step_behind(node: fx.Node) -> Step:
    """The grid that a quantize or dequantize node speaks of."""
    scale, zero_point, low, high, dtype = node.args[1:6]
    return Step(scale, zero_point, dtype, low, high)  # type: ignore[arg-type]


def stored_node(module: fx.GraphModule, stored: Stored, name: str) -> fx.Node:
    """Nodes that read a weight's codes and give them their values, at the graph's insertion point."""
    graph, ops = module.graph, library()
    codes = graph.get_attr(put(module, f"{name}_codes", stored.codes))
    low, high = -128, 127
    if stored.scale.dim() == 0:
        scalars = (float(stored.scale), int(stored.zero_point), low, high, torch.int8)
        return graph.call_function(ops.dequantize_per_tensor.default, (codes, *scalars))
    scale = graph.get_attr(put(module, f"{name}_scale", stored.scale))
    zero_point = graph.get_attr(put(module, f"{name}_zero_point", stored.zero_point))
    return graph.call_function(
        ops.dequantize_per_channel.default, (codes, scale, zero_point, stored.axis, low, high, torch.int8)
    )


def constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor that a node reads from the module; None if it does something else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found if isinstance(found, Tensor) else None


def put(module: fx.GraphModule, name: str, tensor: Tensor) -> str:
    """Keep a tensor in the module as a buffer, under this name or, if it is taken, under one like it."""
    *path, last = name.split(".")
    place: nn.Module = module
    for part in path:
        if not isinstance(getattr(place, part, None), nn.Module):
            place.add_module(part, nn.Module())
        place = getattr(place, part)
    unique, at = last, 2
    while hasattr(place, unique):
        unique, at = f"{last}_{at}", at + 1
    place.register_buffer(unique, tensor.detach())
    return ".".join([*path, unique])


def owner(node: fx.Node) -> str:
    """The path of the innermost module in which a node arose; empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((str(path) for path, _ in reversed(list(stack.values()))), "")


def _arguments(step: Step) -> tuple[float, int, int, int, torch.dtype]:
    return step.scale, step.zero_point, step.low, step.high, step.dtype
