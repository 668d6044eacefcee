"""Biases as ONNX Runtime's integer kernels take them: int32, in steps of input times weight.

The file has them as floats, for TensorRT refuses others. ONNX Runtime makes int32 of them by itself, but by the same
step rounds every float weight that it finds between two roundings, with one scale for all channels: a layer that was to
stay float is computed in eight bits then, and a transposed convolution is rounded anew. So it is kept from that step
(see `torchpare.runtimes.onnxruntime`), and given what its kernels need here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["write_integer_biases"]

_LAYERS = {"Conv", "Gemm"}


def write_integer_biases(
    graph: Any, makers: Mapping[str, Any], weights: Mapping[str, Any], is_rounded: Callable[[str], bool]
) -> None:
    """Write the biases of layers between two roundings as integers.

    Args:
        graph: of ONNX, edited in place.
        makers: the node that makes a value, by the value's name.
        weights: the graph's constants by name.
        is_rounded: whether a value, or what an activation function makes of it, is rounded by all that reads it.
    """
    from onnx import helper, numpy_helper

    for node in [node for node in graph.node if node.op_type in _LAYERS and len(node.input) > 2]:
        sources = [makers.get(name) for name in node.input[:2]]
        bias = weights.get(node.input[2])
        factors = {attribute.name: attribute.f for attribute in node.attribute if attribute.name in ("alpha", "beta")}
        if bias is None or set(factors.values()) - {1.0} or not is_rounded(node.output[0]):
            continue
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            continue
        found = [weights.get(source.input[1]) for source in sources if source is not None]
        scales = [scale for scale in found if scale is not None]
        if len(scales) < len(sources):
            continue
        values = numpy_helper.to_array(bias)
        step, steps = (numpy_helper.to_array(scale).reshape(-1) for scale in scales)
        steps = (step.astype(np.float64) * steps).astype(np.float32) if step.size == 1 else step
        if step.size != 1 or values.dtype != np.float32 or values.ndim != 1 or steps.size not in (1, values.size):
            continue
        codes = np.round(values / steps.astype(np.float64))
        if not (
            np.abs(codes) <= np.iinfo(np.int32).max
        ).all():  # in our own files it always is: see `torchpare.runtimes.biases`
            continue
        codes = codes.astype(np.int32)
        own = f"{node.output[0]} (bias)"
        scale = steps if steps.size > 1 else steps.reshape(())
        held = {"codes": codes, "scale": scale, "zero_point": np.zeros_like(scale, dtype=np.int32)}
        graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(array), f"{own} {name}")
                                 for name, array in held.items())  # fmt: skip
        made = helper.make_node("DequantizeLinear", [f"{own} {name}" for name in held], [own], axis=0)
        graph.node.insert(list(graph.node).index(node), made)
        node.input[2] = own
