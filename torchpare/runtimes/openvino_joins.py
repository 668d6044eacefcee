"""Concatenations that OpenVINO gets wrong: of values on a grid with others that lie on none.

OpenVINO moves a dequantization after what only moves values. Where that ends in a concatenation of which other inputs
have none (a picture's patches beside a class token, which is how vision transformers begin) what version 2026.4 returns
is wrong. There the rounding is written out, as a division, a ``Round`` and a ``Clip`` in float: the same numbers, which
it leaves alone.
"""

from __future__ import annotations

from typing import Any

__all__ = ["with_written_out_roundings"]

_MOVES = frozenset(
    {
        "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather", "Split", "Expand",
        "Tile",
    }
)  # fmt: skip


def with_written_out_roundings(model: Any) -> Any:
    """The ONNX model, with roundings written out whose values are concatenated with some that lie on no grid.

    Args:
        model: an ``onnx.ModelProto``; edited in place where there is something to do.
    """
    from onnx import numpy_helper

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    written: set[str] = set()
    for join in [node for node in graph.node if node.op_type == "Concat"]:
        origins = [_origin(makers, name) for name in join.input]
        if all(origins) or not any(origins):
            continue
        for restored in filter(None, origins):
            rounded = makers.get(restored.input[0])
            parts = [constants[name] for name in restored.input[1:3] if name in constants]
            known = rounded is not None and rounded.op_type == "QuantizeLinear" and len(parts) == 2
            if restored.output[0] in written or not known:
                continue
            written.add(restored.output[0])
            scale, zero = (numpy_helper.to_array(part) for part in parts)
            if scale.ndim == 0:
                _write_out(graph, rounded, restored, float(scale), zero)
    return model


def _origin(makers: dict[str, Any], name: str) -> Any:
    """The dequantization that a value comes from, through nothing but moves; None if from elsewhere."""
    while (node := makers.get(name)) is not None:
        if node.op_type == "DequantizeLinear":
            return node
        if node.op_type not in _MOVES:
            return None
        name = node.input[0]
    return None


def _write_out(graph: Any, rounded: Any, restored: Any, scale: float, zero: Any) -> None:
    """Put float operators in the place of one dequantization."""
    import numpy as np
    from onnx import helper, numpy_helper

    low, high = np.iinfo(zero.dtype).min - int(zero), np.iinfo(zero.dtype).max - int(zero)
    numbers = {"scale": scale, "low": low, "high": high}
    stem = f"{restored.output[0]} written out"
    for key, value in numbers.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{stem} {key}"))
    steps = [
        helper.make_node("Div", [rounded.input[0], f"{stem} scale"], [f"{stem} 1"]),
        helper.make_node("Round", [f"{stem} 1"], [f"{stem} 2"]),
        helper.make_node("Clip", [f"{stem} 2", f"{stem} low", f"{stem} high"], [f"{stem} 3"]),
        helper.make_node("Mul", [f"{stem} 3", f"{stem} scale"], [restored.output[0]]),
    ]
    at = list(graph.node).index(restored)
    graph.node.remove(restored)
    for number, step in enumerate(steps):
        step.name = f"{stem} node {number}"
        graph.node.insert(at + number, step)
